//! An operation of REST and how it is described: a [`Route`] is a method, a path and a handler, and what the document says of
//! it is read off the handler's own types. What a handler takes implements [`Takes`], what it answers [`Answers`]; a handler
//! that takes or answers anything else cannot become a route, so nothing that is served is missing from the document.

use std::collections::BTreeSet;

use axum::{
    extract::{Request, State},
    handler::Handler,
    http::{Method, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{MethodFilter, MethodRouter, on},
};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{Shared, idempotency, openapi::RATE_LIMIT, problem::Problem};

/// What all paths begin with but those for machines that watch the server.
pub(super) const API: &str = "/api/v1/";

/// The schemas of bodies: what a request may hold is another thing than what an answer does hold.
#[derive(Debug)]
pub(super) struct Schemas {
    requests: SchemaGenerator,
    answers: SchemaGenerator,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = "/components/schemas".into();
                settings.meta_schema = None;
            })
        };
        Self {
            requests: settings().for_deserialize().into_generator(),
            answers: settings().for_serialize().into_generator(),
        }
    }

    /// What has been referred to, by name.
    pub(super) fn take(mut self) -> Map<String, Value> {
        let mut named = self.requests.take_definitions(true);
        for (name, schema) in self.answers.take_definitions(true) {
            let other = named.insert(name.clone(), schema.clone());
            assert!(other.is_none_or(|other| other == schema), "two different schemas are named {name}");
        }
        named
    }
}

/// An operation as it is being described.
#[derive(Debug)]
pub(super) struct Described {
    schemas: Schemas,
    parameters: Vec<Value>,
    body: Option<Value>,
    successes: Vec<(StatusCode, Value)>,
    failures: BTreeSet<u16>,
    secured: bool,
}

impl Described {
    /// Another status that is answered with a problem; `problem::FAILURES` says what it means.
    pub(super) fn fails(&mut self, statuses: &[StatusCode]) {
        self.failures.extend(statuses.iter().map(|status| status.as_u16()));
    }

    /// Only who shows a credential may call.
    pub(super) fn secured(&mut self) {
        self.secured = true;
    }

    /// A header of the request, or a part of the path.
    pub(super) fn parameter(&mut self, place: &str, name: &str, description: &str, schema: &Value) {
        self.parameters.push(json!({
            "name": name, "in": place, "required": place == "path", "description": description, "schema": schema,
        }));
    }

    /// The parameters after `?`: the members of `T`.
    pub(super) fn query<T: JsonSchema>(&mut self) {
        let all = T::json_schema(&mut self.schemas.requests).to_value();
        for (name, schema) in all["properties"].as_object().into_iter().flatten() {
            let mut schema = schema.clone();
            let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            never_null(&mut schema);
            // Nor is what a missing parameter stands for.
            if schema["default"].is_null()
                && let Some(schema) = schema.as_object_mut()
            {
                schema.remove("default");
            }
            let required = all["required"].as_array().is_some_and(|required| required.contains(&json!(name)));
            self.parameters.push(json!({
                "name": name,
                "in": "query",
                "required": required,
                "description": description.unwrap_or_else(|| json!("")),
                "schema": schema,
            }));
        }
    }

    /// A body of JSON.
    pub(super) fn body<T: JsonSchema>(&mut self) {
        let schema = self.schemas.requests.subschema_for::<T>();
        self.body = Some(json!({"required": true, "content": {"application/json": {"schema": schema}}}));
    }

    /// A body of one of these media types.
    pub(super) fn body_of(&mut self, content: &Value) {
        self.body = Some(json!({"required": true, "content": content}));
    }

    /// An answer with a body of JSON, and these headers of `openapi::HEADERS`. A status may have bodies of several kinds.
    pub(super) fn answer<T: JsonSchema>(&mut self, status: StatusCode, headers: &[&str]) {
        let schema = self.schemas.answers.subschema_for::<T>().to_value();
        if let Some((_, answer)) = self.successes.iter_mut().find(|(known, _)| *known == status) {
            let described = &mut answer["content"]["application/json"]["schema"];
            *described = json!({"anyOf": [described.take(), schema]});
            return;
        }
        self.answer_of(status, headers, &json!({"application/json": {"schema": schema}}));
    }

    /// An answer with a body of these media types; null: with none.
    pub(super) fn answer_of(&mut self, status: StatusCode, headers: &[&str], content: &Value) {
        let description = status.canonical_reason().unwrap_or("Done");
        let mut answer = json!({"description": description, "headers": header_references(headers)});
        if !content.is_null() {
            answer["content"] = content.clone();
        }
        self.successes.push((status, answer));
    }

    /// A header of the answers that were described last.
    pub(super) fn header_of_answers(&mut self, name: &str) {
        for (_, answer) in &mut self.successes {
            answer["headers"][name] = header_reference(name);
        }
    }
}

/// Optional members may be null in a body; a parameter is left out instead.
fn never_null(schema: &mut Value) {
    if let Some(kinds) = schema["type"].as_array().cloned() {
        let mut kinds: Vec<_> = kinds.into_iter().filter(|kind| kind != "null").collect();
        schema["type"] = if kinds.len() == 1 { kinds.remove(0) } else { kinds.into() };
    }
}

fn header_reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/headers/{name}")})
}

/// References to headers, the request's id always among them.
pub(super) fn header_references(names: &[&str]) -> Map<String, Value> {
    let names = names.iter().copied().chain(["X-Request-Id"]);
    names.map(|name| (name.to_owned(), header_reference(name))).collect()
}

/// What a handler may take from a request.
pub(super) trait Takes {
    /// Whether it looks at the parameters after `?`.
    const QUERY: bool = false;

    fn describe(to: &mut Described);
}

impl Takes for State<Shared> {
    fn describe(_: &mut Described) {}
}

/// What a handler may answer.
pub(super) trait Answers {
    fn describe(to: &mut Described);
}

/// A handler, all of whose types say what they are in the document.
pub(super) trait Operation<T>: Handler<T, Shared> {
    /// Whether it looks at the parameters after `?`.
    const QUERY: bool;

    fn describe(to: &mut Described);
}

macro_rules! operation {
    ($($taken:ident),*) => {
        impl<F, Fut, M, A, $($taken),*> Operation<(M, $($taken,)*)> for F
        where
            F: Fn($($taken),*) -> Fut + Handler<(M, $($taken,)*), Shared>,
            Fut: Future<Output = A>,
            A: Answers,
            $($taken: Takes,)*
        {
            const QUERY: bool = false $(|| $taken::QUERY)*;

            fn describe(to: &mut Described) {
                $($taken::describe(to);)*
                A::describe(to);
            }
        }
    };
}

operation!();
operation!(T1);
operation!(T1, T2);
operation!(T1, T2, T3);
operation!(T1, T2, T3, T4);
operation!(T1, T2, T3, T4, T5);
operation!(T1, T2, T3, T4, T5, T6);

/// What can be done with what was created.
#[derive(Debug, Clone, Copy)]
struct Link {
    operation: &'static str,
    /// The member of the answer that is the other operation's `id`.
    member: &'static str,
}

/// One operation: what is served and what is said of it.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    id: &'static str,
    summary: &'static str,
    failures: Vec<StatusCode>,
    links: Vec<Link>,
    describe: fn(&mut Described),
    handler: MethodRouter<Shared>,
}

impl Route {
    pub(super) fn new<H: Operation<T>, T: 'static>(
        method: Method,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        let filter = MethodFilter::try_from(method.clone()).expect("a method that the router knows");
        let mut served = on(filter, handler);
        if path.starts_with(API) && !H::QUERY {
            served = served.route_layer(middleware::from_fn(without_parameters));
        }
        let describe = <H as Operation<T>>::describe;
        Self { method, path, id, summary, failures: Vec::new(), links: Vec::new(), describe, handler: served }
    }

    pub(super) fn get<H: Operation<T>, T: 'static>(
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        Self::new(Method::GET, path, id, summary, handler)
    }

    pub(super) fn post<H: Operation<T>, T: 'static>(
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        Self::new(Method::POST, path, id, summary, handler)
    }

    /// Statuses of problems that its types do not tell of.
    pub(super) fn fails(mut self, statuses: &[StatusCode]) -> Self {
        self.failures.extend_from_slice(statuses);
        self
    }

    /// An operation whose `id` is this member of the answer.
    pub(super) fn leads_to(mut self, operation: &'static str, member: &'static str) -> Self {
        self.links.push(Link { operation, member });
        self
    }

    /// Adds it to the router.
    pub(super) fn serve(self, router: axum::Router<Shared>) -> axum::Router<Shared> {
        router.route(self.path, self.handler)
    }

    /// The statuses that it may answer with.
    pub(super) fn statuses(&self) -> BTreeSet<u16> {
        let described = self.describe(Schemas::new());
        described.successes.iter().map(|(status, _)| status.as_u16()).chain(described.failures).collect()
    }

    fn describe(&self, schemas: Schemas) -> Described {
        let mut described = Described {
            schemas,
            parameters: Vec::new(),
            body: None,
            successes: Vec::new(),
            failures: BTreeSet::new(),
            secured: false,
        };
        (self.describe)(&mut described);
        described.fails(&self.failures);
        // See `origin`.
        described.fails(&[StatusCode::FORBIDDEN]);
        if self.path.starts_with(API) {
            described.fails(&[StatusCode::BAD_REQUEST]);
            if self.method == Method::POST && !self.path.ends_with("/records") {
                idempotency::describe(&mut described);
            }
        }
        described.parameters.push(json!({"$ref": "#/components/parameters/RequestId"}));
        described
    }

    /// The operation as an object of the document, and the schemas with those that it refers to.
    pub(super) fn document(&self, tag: &str, schemas: Schemas) -> (Value, Schemas) {
        let described = self.describe(schemas);
        let mut responses = Map::new();
        for (status, mut answer) in described.successes {
            if described.secured {
                for name in RATE_LIMIT {
                    answer["headers"][name] = header_reference(name);
                }
            }
            if status.is_success() && !self.links.is_empty() {
                answer["links"] = self.links.iter().map(Link::document).collect::<Map<_, _>>().into();
            }
            responses.insert(status.as_str().to_owned(), answer);
        }
        for status in described.failures {
            let name = super::problem::failure(status).name;
            responses.insert(status.to_string(), json!({"$ref": format!("#/components/responses/{name}")}));
        }
        let mut operation = json!({
            "operationId": self.id,
            "summary": self.summary,
            "tags": [tag],
            "parameters": described.parameters,
            "responses": responses,
        });
        if let Some(body) = described.body {
            operation["requestBody"] = body;
        }
        let schemes: &[&str] = if described.secured { &["bearer", "apiKey", "certificate"] } else { &[] };
        operation["security"] = schemes.iter().map(|scheme| json!({*scheme: []})).collect();
        (operation, described.schemas)
    }
}

impl Link {
    fn document(&self) -> (String, Value) {
        let link = json!({
            "operationId": self.operation,
            "parameters": {"id": format!("$response.body#/{}", self.member)},
        });
        (self.operation.to_owned(), link)
    }
}

/// Refuses parameters where none are taken: one that is misspelt, or not there yet, must not be passed over.
async fn without_parameters(request: Request, next: Next) -> Response {
    let query = request.uri().query().unwrap_or("");
    if query.is_empty() {
        return next.run(request).await;
    }
    let name: String = query.split(['=', '&']).next().unwrap_or("").chars().take(64).collect();
    Problem::invalid("query", format!("this operation takes no parameters, and none of the name {name:?}"))
        .into_response()
}
