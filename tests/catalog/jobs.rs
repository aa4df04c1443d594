//! Jobs.

use serde_json::json;
use ttdust::catalog::{AuditFilter, CatalogError, Job, JobChange, JobFilter, JobStatus, Page};
use ttdust_shards::ids::StreamId;

use crate::store::{Place, all, line};

fn job(id: &str, stream: StreamId) -> Job {
    Job {
        id: id.into(),
        stream,
        status: JobStatus::Pending,
        spec: json!({"source_uri": "file:///data/a.jsonl"}),
        objects: json!(null),
        progress: json!({"records_processed": 0}),
        created_at: 5,
        completed_at: None,
    }
}

fn change(id: &str, status: JobStatus, processed: u64) -> JobChange {
    let completed_at = status.is_final().then_some(9);
    JobChange { id: id.into(), status, objects: None, progress: json!({"records_processed": processed}), completed_at }
}

pub async fn a_job_goes_on_until_it_ends_and_then_stays_as_it_is(place: Place) {
    let catalog = place.open().await;
    let generation = catalog.generation().await.expect("a generation");
    let first = job("job_1", StreamId::generate());
    catalog.create_job(first.clone(), 9, line("job.create")).await.expect("created");
    let again = catalog.create_job(first.clone(), 9, line("job.create")).await;
    assert!(matches!(again, Err(CatalogError::AlreadyExists(_))));
    assert_eq!(catalog.job("job_1".into()).await, Ok(first.clone()));
    let listed = JobChange { objects: Some(json!(["a"])), ..change("job_1", JobStatus::Running, 7) };
    let running = catalog.change_job(listed, None).await.expect("changed");
    assert_eq!((running.status, &running.objects), (JobStatus::Running, &json!(["a"])));
    let further = catalog.change_job(change("job_1", JobStatus::Running, 8), None).await.expect("changed");
    assert_eq!((&further.objects, &further.progress), (&json!(["a"]), &json!({"records_processed": 8})));
    assert_eq!(further.spec, first.spec);
    let cancel = line("job.cancel");
    let ended = catalog.change_job(change("job_1", JobStatus::Cancelled, 8), Some(cancel)).await.expect("changed");
    assert_eq!((ended.status, ended.completed_at), (JobStatus::Cancelled, Some(9)));
    for status in [JobStatus::Running, JobStatus::Completed] {
        let late = catalog.change_job(change("job_1", status, 9), Some(line("late"))).await;
        assert!(matches!(late, Err(CatalogError::Conflict(reason)) if reason.contains("cancelled")));
    }
    assert_eq!(catalog.job("job_1".into()).await, Ok(ended));
    let missing = catalog.change_job(change("job_2", JobStatus::Running, 1), None).await;
    assert!(matches!(missing, Err(CatalogError::NotFound(_))));
    let lines = catalog.audit(AuditFilter::default(), all()).await.expect("lines");
    let actions: Vec<_> = lines.iter().map(|line| line.action.as_str()).collect();
    assert_eq!(actions, ["job.cancel", "job.create"]);
    assert_eq!(catalog.generation().await, Ok(generation), "the shards need not hear of it");
}

pub async fn jobs_are_listed_newest_first_filtered_and_forgotten(place: Place) {
    let catalog = place.open().await;
    let (one, other) = (StreamId::generate(), StreamId::generate());
    for (id, stream) in [("job_1", one), ("job_2", other), ("job_3", one)] {
        catalog.create_job(job(id, stream), 9, line("x")).await.expect("created");
    }
    catalog.change_job(change("job_1", JobStatus::Completed, 3), None).await.expect("changed");
    let ids = async |filter: JobFilter, page: Page| {
        let jobs = catalog.jobs(filter, page).await.expect("jobs");
        jobs.into_iter().map(|job| job.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(JobFilter::default(), all()).await, ["job_3", "job_2", "job_1"]);
    assert_eq!(ids(JobFilter::default(), Page { after: "job_3".into(), limit: 1 }).await, ["job_2"]);
    assert_eq!(ids(JobFilter { stream: Some(one), status: None }, all()).await, ["job_3", "job_1"]);
    let done = JobFilter { stream: None, status: Some(JobStatus::Completed) };
    assert_eq!(ids(done, all()).await, ["job_1"]);
    let unfinished = catalog.unfinished_jobs().await.expect("jobs");
    assert_eq!(unfinished.iter().map(|job| job.id.as_str()).collect::<Vec<_>>(), ["job_2", "job_3"]);
    assert_eq!(catalog.forget_jobs_before(9).await, Ok(0));
    assert_eq!(catalog.forget_jobs_before(10).await, Ok(1), "those that ended before");
    assert_eq!(ids(JobFilter::default(), all()).await, ["job_3", "job_2"]);
}

pub async fn there_is_no_more_than_so_many_that_have_not_ended(place: Place) {
    let catalog = place.open().await;
    let create = async |id: &str| catalog.create_job(job(id, StreamId::generate()), 2, line("job.create")).await;
    for id in ["job_1", "job_2"] {
        create(id).await.expect("created");
    }
    catalog.change_job(change("job_1", JobStatus::Running, 1), None).await.expect("changed");
    let refused = create("job_3").await;
    assert!(matches!(&refused, Err(CatalogError::Full(why)) if why.contains("2 jobs")), "{refused:?}");
    assert!(matches!(catalog.job("job_3".into()).await, Err(CatalogError::NotFound(_))));
    assert_eq!(catalog.audit(AuditFilter::default(), all()).await.expect("lines").len(), 2, "none of what is refused");
    catalog.change_job(change("job_1", JobStatus::Failed, 1), None).await.expect("changed");
    create("job_3").await.expect("one has ended");
}

pub async fn of_those_that_are_created_at_once_no_more_are_kept(place: Place) {
    const MOST: usize = 3;
    let mut handles = Vec::new();
    for _ in 0..4 {
        handles.push(place.open().await);
    }
    let create = async |at: usize| {
        let handle = &handles[at % handles.len()];
        handle.create_job(job(&format!("job_{at}"), StreamId::generate()), MOST as u32, line("job.create")).await
    };
    let created = futures_util::future::join_all((0..24).map(create)).await;
    assert_eq!(created.iter().filter(|created| created.is_ok()).count(), MOST, "{created:?}");
    let is_full = |created: &Result<(), CatalogError>| matches!(created, Ok(()) | Err(CatalogError::Full(_)));
    assert!(created.iter().all(is_full), "{created:?}");
    assert_eq!(handles[0].unfinished_jobs().await.expect("jobs").len(), MOST);
}
