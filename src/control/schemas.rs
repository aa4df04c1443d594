//! Schemas and their versions.

use std::sync::Arc;

use ttdust_shards::{
    access::Principal,
    ids::SchemaId,
    schema::{CompiledSchema, SchemaError},
    snapshot::StreamEntry,
};

use super::{Actor, Control, ControlError, FieldError, names};
use crate::{
    calendar::now_unix_micros,
    catalog::{Page, Schema, SchemaFilter, SchemaVersion, canonical_fingerprint},
};

/// The only mode that this version can keep: any version may follow any.
const COMPATIBILITY_NONE: &str = "NONE";
const DEFAULT_NAMESPACE: &str = "default";
const POLICY_STRICT: &str = "strict";

/// A schema to register.
#[derive(Debug, Clone)]
pub struct NewSchema {
    /// What its name is unique in; `None`: `default`.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Its first version, as JSON text.
    pub definition: String,
    /// Only `NONE`, in any case, for now; `None`: that.
    pub compatibility_mode: Option<String>,
}

/// A version to add.
#[derive(Debug, Clone)]
pub struct NewVersion {
    /// The schema.
    pub schema: SchemaId,
    /// As JSON text.
    pub definition: String,
    /// Only check it.
    pub dry_run: bool,
}

/// What became of a [`NewVersion`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddedVersion {
    /// It is in force.
    Added(SchemaVersion),
    /// It could be added under this compatibility mode.
    WouldFit {
        /// The mode.
        compatibility_mode: String,
    },
}

impl Control {
    /// Registers a schema with its first version.
    ///
    /// # Errors
    /// `Invalid`: a field is at fault or the definition does not compile. `AlreadyExists`. `NotAvailable`: the mode.
    pub async fn create_schema(&self, actor: &Actor, new: NewSchema) -> Result<(Schema, SchemaVersion), ControlError> {
        names::name("/name", &new.name)?;
        let namespace = new.namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.into());
        names::name("/namespace", &namespace)?;
        names::description("/description", &new.description)?;
        let compatibility_mode = compatibility(new.compatibility_mode.as_deref())?;
        let (id, created_at) = (SchemaId::generate(), now_unix_micros());
        self.compile(id, 1, new.definition.clone()).await?;
        let schema = Schema {
            id,
            namespace,
            name: new.name,
            description: new.description,
            compatibility_mode,
            policy: POLICY_STRICT.into(),
            version: 1,
            created_at,
            updated_at: created_at,
            latest_version: 1,
        };
        let version = new_version(id, 1, new.definition, created_at)?;
        let _changing = self.changing().await?;
        // No stream uses it yet, so there is nothing to publish.
        let audit = actor.did("schema.create", "schema", &id.to_string());
        self.parts.catalog.create_schema(schema.clone(), version.clone(), audit).await?;
        tracing::info!(schema = %id, name = %schema.name, "schema created");
        Ok((schema, version))
    }

    /// Whether `caller` may know of a schema: one confined to streams knows those of its streams.
    #[must_use]
    pub fn sees_schema(&self, caller: &Principal, id: SchemaId) -> bool {
        let of_theirs = |s: &Arc<StreamEntry>| s.schema.id == id && caller.sees(s.id, &s.name);
        !caller.role.is_confined() || self.current().streams().any(of_theirs)
    }

    /// A schema.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn schema(&self, id: SchemaId) -> Result<Schema, ControlError> {
        Ok(self.parts.catalog.schema(id).await?)
    }

    /// A schema and its newest version.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn schema_and_newest(&self, id: SchemaId) -> Result<(Schema, SchemaVersion), ControlError> {
        let schema = self.parts.catalog.schema(id).await?;
        let newest = self.parts.catalog.versions(id, schema.latest_version - 1, 1).await?.pop();
        let newest = newest.ok_or_else(|| ControlError::Internal(format!("{id} has no version")))?;
        Ok((schema, newest))
    }

    /// Schemas, filtered by namespace and name.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn schemas(
        &self,
        namespace: Option<String>,
        name: Option<String>,
        page: Page,
    ) -> Result<Vec<Schema>, ControlError> {
        let filter = SchemaFilter { namespace, name, name_prefix: None };
        Ok(self.parts.catalog.schemas(filter, page).await?)
    }

    /// The versions of a schema after `after`.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn versions(&self, id: SchemaId, after: u32, limit: u32) -> Result<Vec<SchemaVersion>, ControlError> {
        Ok(self.parts.catalog.versions(id, after, limit).await?)
    }

    /// Adds a version; records are checked against it once this is answered.
    ///
    /// # Errors
    /// `Invalid`: it does not compile. `NotFound`.
    pub async fn add_version(&self, actor: &Actor, new: NewVersion) -> Result<AddedVersion, ControlError> {
        let _changing = self.changing().await?;
        let schema = self.parts.catalog.schema(new.schema).await?;
        let number = schema.latest_version + 1;
        self.compile(new.schema, number, new.definition.clone()).await?;
        if new.dry_run {
            return Ok(AddedVersion::WouldFit { compatibility_mode: schema.compatibility_mode });
        }
        let version = new_version(new.schema, number, new.definition, now_unix_micros())?;
        let audit = actor.did("schema.add_version", "schema", &new.schema.to_string());
        self.parts.catalog.add_version(version.clone(), audit).await?;
        self.publish().await?;
        tracing::info!(schema = %new.schema, version = number, "schema version added");
        Ok(AddedVersion::Added(version))
    }

    async fn compile(&self, id: SchemaId, version: u32, definition: String) -> Result<(), ControlError> {
        let compiled =
            self.parts.workers.run(move || CompiledSchema::compile(id, version, &definition).map(drop)).await?;
        compiled.map_err(|error| unusable(&error))
    }
}

/// A version whose definition has been compiled.
fn new_version(
    schema: SchemaId,
    version: u32,
    definition: String,
    created_at: i64,
) -> Result<SchemaVersion, ControlError> {
    let fingerprint = canonical_fingerprint(&definition)
        .map_err(|error| ControlError::Internal(format!("a definition that compiles is no JSON: {error}")))?;
    Ok(SchemaVersion { schema, version, definition, fingerprint, created_at, retired_at: None })
}

fn unusable(error: &SchemaError) -> ControlError {
    ControlError::Invalid {
        detail: format!("the definition cannot be used: {}", error.message),
        fields: vec![FieldError { pointer: format!("/definition{}", error.pointer), detail: error.message.clone() }],
    }
}

fn compatibility(mode: Option<&str>) -> Result<String, ControlError> {
    let mode = mode.unwrap_or(COMPATIBILITY_NONE).to_ascii_uppercase();
    match mode.as_str() {
        COMPATIBILITY_NONE => Ok(mode),
        "BACKWARD" | "FORWARD" | "FULL" | "BACKWARD_TRANSITIVE" | "FORWARD_TRANSITIVE" | "FULL_TRANSITIVE" => {
            Err(ControlError::NotAvailable(format!(
                "compatibility_mode {mode} is not available in this version, which does not compare versions yet: use NONE"
            )))
        }
        _ => Err(ControlError::field(
            "/compatibility_mode",
            "the modes are NONE, BACKWARD, FORWARD and FULL; only NONE is available in this version",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_mode_that_is_kept_is_taken() {
        assert_eq!(compatibility(None), Ok("NONE".into()));
        assert_eq!(compatibility(Some("none")), Ok("NONE".into()));
        assert!(matches!(compatibility(Some("backward")), Err(ControlError::NotAvailable(_))));
        assert!(matches!(compatibility(Some("sideways")), Err(ControlError::Invalid { .. })));
    }

    #[test]
    fn a_schema_error_points_into_the_request() {
        let error = SchemaError { pointer: "/properties/a".into(), message: "no".into() };
        let ControlError::Invalid { fields, .. } = unusable(&error) else { panic!("the request is at fault") };
        assert_eq!(fields[0].pointer, "/definition/properties/a");
    }
}
