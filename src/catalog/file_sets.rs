//! Calls about the set of a stream's files: what takes the place of what, what goes, and what is to be done after it.

use ttdust_shards::ids::StreamId;

use super::{Catalog, Commit, FileTotals, ManifestDebt, Result, RetiredFile, Store, StoredFile, StreamHour};

impl Catalog {
    /// Puts `new`, which holds the same rows, into the place of the files of these keys, which are retired then, in one
    /// transaction. The same again is no change.
    ///
    /// # Errors
    /// `Conflict`: not all of them are there, `new` does not hold just their rows, or its object is to go.
    pub async fn replace_files(&self, stream: StreamId, old: Vec<String>, new: StoredFile, now: i64) -> Result<Commit> {
        on_store!(self, replace_files(stream, old, new, now))
    }

    /// Retires the files that hold no row past sequence number `through`, in one transaction, and tells what they came to. So
    /// only the first files of a stream go, and what is left has no gap.
    ///
    /// # Errors
    /// See [`super::CatalogError`].
    pub async fn drop_files(&self, stream: StreamId, through: i64, now: i64) -> Result<FileTotals> {
        on_store!(self, drop_files(stream, through, now))
    }

    /// Makes `files`, in order and without a gap, the committed files of a stream, in one transaction, in the place of those that are:
    /// for a catalog that does not know what was committed. Of retired files those that are named here come back; no object is
    /// given up. `through` is the last sequence number that ever was in a file; it never falls.
    ///
    /// # Errors
    /// `Conflict`: the files have a gap or overlap, or go on past `through`.
    pub async fn set_files(&self, stream: StreamId, files: Vec<StoredFile>, through: i64, now: i64) -> Result<Commit> {
        super::rules::is_list(&files, through)?;
        on_store!(self, set_files(stream, files, through, now))
    }

    /// The first `limit` committed files of a stream that begin past sequence number `after`, in order.
    ///
    /// # Errors
    /// See [`super::CatalogError`].
    pub async fn files_after(&self, stream: StreamId, after: i64, limit: u32) -> Result<Vec<StoredFile>> {
        on_store!(self, files_after(stream, after, limit))
    }

    /// The committed files of an hour, in order.
    ///
    /// # Errors
    /// See [`super::CatalogError`].
    pub async fn files_of_hour(&self, of: StreamHour) -> Result<Vec<StoredFile>> {
        on_store!(self, files_of_hour(of))
    }

    /// The first `limit` hours after `after` that have two or more files shorter than `below_bytes` of level 0 or 1, in order.
    ///
    /// # Errors
    /// See [`super::CatalogError`].
    pub async fn hours_to_merge(
        &self,
        below_bytes: u64,
        after: Option<StreamHour>,
        limit: u32,
    ) -> Result<Vec<StreamHour>> {
        on_store!(self, hours_to_merge(below_bytes, after, limit))
    }

    /// The first `limit` files that were retired before `before`, Unix µs, oldest first.
    ///
    /// # Errors
    /// See [`super::CatalogError`].
    pub async fn retired(&self, before: i64, limit: u32) -> Result<Vec<RetiredFile>> {
        on_store!(self, retired(before, limit))
    }

    /// Retires those of `found`, objects of a stream that are named as its files, that no list knows and that cannot be a flush
    /// to come: orphans. From then on none of them can become a file. Tells how many they were.
    ///
    /// # Errors
    /// See [`super::CatalogError`].
    pub async fn condemn(&self, stream: StreamId, found: Vec<StoredFile>, now: i64) -> Result<u64> {
        on_store!(self, condemn(stream, found, now))
    }

    /// The objects of these retired files are gone.
    ///
    /// # Errors
    /// See [`super::CatalogError`].
    pub async fn forget_retired(&self, keys: Vec<String>) -> Result<()> {
        on_store!(self, forget_retired(keys))
    }

    /// Those of `keys` that are no file's, committed or retired.
    ///
    /// # Errors
    /// See [`super::CatalogError`].
    pub async fn unreferenced(&self, keys: Vec<String>) -> Result<Vec<String>> {
        on_store!(self, unreferenced(keys))
    }

    /// The first `limit` hours whose files changed since their manifests were written, in order.
    ///
    /// # Errors
    /// See [`super::CatalogError`].
    pub async fn manifests_due(&self, limit: u32) -> Result<Vec<ManifestDebt>> {
        on_store!(self, manifests_due(limit))
    }

    /// A manifest was written from what was read after `debt` was. If the files changed since, it is owed still.
    ///
    /// # Errors
    /// See [`super::CatalogError`].
    pub async fn manifest_written(&self, debt: ManifestDebt) -> Result<()> {
        on_store!(self, manifest_written(debt))
    }
}
