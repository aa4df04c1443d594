//! How a catalog comes to this version.

use ttdust::catalog::{Catalog, CatalogError, PgFigures};

use crate::store::Place;

pub async fn a_plan_changes_nothing_and_a_second_run_has_nothing_to_do(place: Place) {
    let at = place.place();
    let plan = at.migration_plan().await.expect("a plan");
    assert_eq!((plan.from, plan.to), (0, plan.steps.len()));
    assert_eq!(at.migration_plan().await, Ok(plan.clone()), "nothing was changed");
    assert_eq!(at.migrate().await, Ok(plan.clone()));
    let done = at.migration_plan().await.expect("a plan");
    assert_eq!((done.from, done.to, done.steps.len()), (plan.to, plan.to, 0));
    assert_eq!(at.migrate().await, Ok(done));
    place.open().await.ping().await.expect("it can be used");
}

pub async fn a_catalog_of_a_newer_program_is_refused(place: Place) {
    let at = place.place();
    at.migrate().await.expect("migrated");
    let newer = match &place {
        Place::Sqlite(_) => "PRAGMA user_version = 99",
        Place::Postgres(..) => "INSERT INTO catalog_migrations VALUES (99, '0099_later', 1)",
    };
    place.execute(newer).await.expect("set");
    assert!(matches!(at.migrate().await, Err(CatalogError::Corrupt(_))));
    assert!(matches!(at.migration_plan().await, Err(CatalogError::Corrupt(_))));
    let opened = Catalog::open(&at, PgFigures::default()).await;
    assert!(matches!(opened, Err(CatalogError::Corrupt(reason)) if reason.contains("newer program")));
}

pub async fn two_that_begin_at_once_make_one_catalog(place: Place) {
    let (one, other) = tokio::join!(place.open(), place.open());
    assert_eq!(one.cluster_id().await, other.cluster_id().await);
    let last = place.open().await;
    assert_eq!(last.cluster_id().await, one.cluster_id().await);
}
