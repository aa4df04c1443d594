//! What every store of objects does, shown on each of them.

#[path = "server/disk.rs"]
mod disk;
#[path = "server/s3.rs"]
mod s3;

use std::{
    fs, io,
    ops::Range,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use disk::SmallDisk;
use ttdust::{
    calendar::now_unix_micros,
    config::S3Options,
    objects::{ObjectEntry, ObjectError, Objects, S3Figures},
};

/// A store of its own, and a directory for staged files.
struct Site {
    objects: Objects,
    dir: tempfile::TempDir,
    name: &'static str,
    /// Lives as long as its objects.
    store: Option<s3::Store>,
}

impl Site {
    fn local() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { objects: Objects::local(dir.path().join("objects")).expect("opened"), dir, name: "local", store: None }
    }

    /// In a store that `set` makes, as `change` has it used.
    async fn s3(name: &'static str, set: fn(&mut s3::State), change: fn(&mut S3Options)) -> Self {
        let store = s3::Store::start();
        set(&mut store.state());
        let mut options = store.options();
        change(&mut options);
        let objects = Objects::s3(&options, S3Figures::default()).await.expect("opened");
        Self { objects, dir: tempfile::tempdir().expect("a directory"), name, store: Some(store) }
    }

    async fn each() -> Vec<Self> {
        let bare = |state: &mut s3::State| (state.conditional, state.checksums) = (false, false);
        let prefix = |options: &mut S3Options| options.prefix = "deep/prod".into();
        vec![
            Self::local(),
            Self::s3("S3", |_| {}, |_| {}).await,
            Self::s3("S3 with a prefix", |_| {}, prefix).await,
            Self::s3("S3 without conditions and checksums", bare, |_| {}).await,
        ]
    }

    fn staged(&self, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join("staged");
        fs::write(&path, content).expect("a staged file");
        path
    }

    async fn try_put(&self, key: &str, content: &[u8]) -> Result<(), ObjectError> {
        let staged = self.staged(content);
        let outcome = self.objects.put(&staged, key, content.len() as u64, crc32c::crc32c(content)).await;
        assert_eq!(staged.exists(), outcome.is_err(), "what is in place is not staged any more");
        outcome
    }

    async fn put(&self, key: &str, content: &[u8]) {
        self.try_put(key, content).await.unwrap_or_else(|error| panic!("{}: {key}: {error}", self.name));
    }

    async fn get(&self, key: &str) -> Option<Bytes> {
        match self.objects.get(key, 1 << 30).await {
            Ok(content) => Some(content),
            Err(ObjectError::NotFound { key: named }) => {
                assert_eq!(named, key);
                None
            }
            Err(error) => panic!("{}: {key}: {error}", self.name),
        }
    }

    async fn keys(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        let found = self.objects.list(prefix, after, limit).await;
        found.expect("a listing").into_iter().map(|entry| entry.key).collect()
    }
}

/// Runs `case` on a fresh store of each kind.
fn on_each(case: impl AsyncFn(&Site)) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
        for site in Site::each().await {
            case(&site).await;
        }
    });
}

#[test]
fn an_object_is_put_once_and_the_same_again_is_no_change() {
    on_each(async |site| {
        site.put("s/1/a", b"rows").await;
        assert_eq!(site.get("s/1/a").await.as_deref(), Some(&b"rows"[..]));
        site.put("s/1/a", b"rows").await;
        let sum = crc32c::crc32c(b"rows");
        let gone = site.dir.path().join("gone");
        site.objects.put(&gone, "s/1/a", 4, sum).await.expect("the same again, without the staged file");
        site.put("s/1/empty", b"").await;
        assert_eq!(site.get("s/1/empty").await.as_deref(), Some(&b""[..]));
    });
}

#[test]
fn another_content_is_refused_and_only_replaced_on_demand() {
    on_each(async |site| {
        site.put("s/a", b"rows").await;
        for other in [&b"more"[..], b"rows and more", b""] {
            let refused = site.try_put("s/a", other).await;
            assert!(matches!(&refused, Err(ObjectError::Different { key }) if key == "s/a"), "{refused:?}");
            assert_eq!(site.get("s/a").await.as_deref(), Some(&b"rows"[..]));
        }
        let staged = site.staged(b"more");
        site.objects.replace(&staged, "s/a", 4, crc32c::crc32c(b"more")).await.expect("replaced");
        assert!(!staged.exists());
        assert_eq!(site.get("s/a").await.as_deref(), Some(&b"more"[..]));
    });
}

#[test]
fn a_lost_cut_or_damaged_file_is_never_put() {
    on_each(async |site| {
        let staged = site.staged(b"rows");
        for (bytes, checksum) in
            [(5, crc32c::crc32c(b"rows")), (3, crc32c::crc32c(b"row")), (4, crc32c::crc32c(b"sowr"))]
        {
            for replace in [false, true] {
                let outcome = match replace {
                    false => site.objects.put(&staged, "s/a", bytes, checksum).await,
                    true => site.objects.replace(&staged, "s/a", bytes, checksum).await,
                };
                assert!(matches!(outcome, Err(ObjectError::StagedLost { .. })), "{outcome:?}");
            }
        }
        let outcome = site.objects.put(&staged.with_extension("gone"), "s/a", 4, 0).await;
        assert!(matches!(outcome, Err(ObjectError::StagedLost { .. })), "{outcome:?}");
        assert_eq!(site.get("s/a").await, None);
        assert_eq!(site.keys("", None, 10).await, Vec::<String>::new());
    });
}

#[test]
fn a_small_object_is_replaced_whole() {
    on_each(async |site| {
        for content in [&b"first"[..], b"second, and longer", b""] {
            site.objects.put_bytes("manifests/1", Bytes::copy_from_slice(content)).await.expect("put");
            assert_eq!(site.get("manifests/1").await.as_deref(), Some(content));
        }
        assert_eq!(site.keys("", None, 10).await, ["manifests/1"]);
    });
}

#[test]
fn reads_are_bounded_and_say_what_is_missing() {
    on_each(async |site| {
        let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        site.put("s/a", &content).await;
        let all = content.len() as u64;
        assert_eq!(site.objects.size("s/a").await.expect("a length"), Some(all));
        assert_eq!(site.objects.size("s/b").await.expect("none"), None);
        assert_eq!(site.objects.get("s/a", all).await.expect("all of it"), content);
        let refused = site.objects.get("s/a", all - 1).await;
        assert!(matches!(refused, Err(ObjectError::TooLong { bytes, limit, .. }) if (bytes, limit) == (all, all - 1)));

        let ranges: [Range<u64>; 7] = [all - 5..all, 0..4, 10..10, 399_000..399_500, 0..all, 2..3, 100_000..200_001];
        let read = site.objects.read_ranges("s/a", ranges.to_vec()).await.expect("bytes");
        assert_eq!(read.len(), ranges.len());
        for (range, read) in ranges.iter().zip(&read) {
            assert_eq!(read, &content[range.start as usize..range.end as usize], "{range:?}");
        }
        assert_eq!(site.objects.read_ranges("s/a", vec![]).await.expect("nothing"), Vec::<Bytes>::new());
        for past in [all - 1..all + 1, all..all + 1, all + 10..all + 20] {
            let outcome = site.objects.read_ranges("s/a", vec![0..1, past]).await;
            assert!(matches!(outcome, Err(ObjectError::TooShort { .. })), "{outcome:?}");
        }
        let absent = site.objects.read_ranges("s/b", vec![0..1, 2..3]).await;
        assert!(matches!(absent, Err(ObjectError::NotFound { .. })), "{absent:?}");
    });
}

#[test]
fn a_source_is_read_on_another_thread() {
    on_each(async |site| {
        let content: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
        site.put("s/a", &content).await;
        let bytes = content.len() as u64;
        let (there, absent) = (site.objects.source("s/a", bytes), site.objects.source("s/b", bytes));
        let read = move || {
            let absent = absent.open().and_then(|open| open.read_ranges(std::slice::from_ref(&(0..1))));
            assert_eq!(absent.expect_err("nothing there").kind(), io::ErrorKind::NotFound);
            let open = there.open()?;
            let past = open.read_ranges(std::slice::from_ref(&(0..bytes + 1))).expect_err("past the end");
            assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);
            open.read_ranges(&[7..9, 100_000..bytes])
        };
        let read = tokio::task::spawn_blocking(read).await.expect("no panic").expect("bytes");
        assert_eq!(read, [&content[7..9], &content[100_000..]]);
    });
}

#[test]
fn a_listing_is_in_the_order_of_keys_and_goes_on_after_any() {
    on_each(async |site| {
        // `-` and `.` sort before `/`, digits after it: the order of names is not that of keys.
        let mut keys = ["a/b/2", "a/b/10", "a/b-c", "a/b.d/x", "a/b0", "a/c/d/e", "a1", "b/x", "z"];
        for key in keys {
            site.put(key, key.as_bytes()).await;
        }
        keys.sort_unstable();
        assert_eq!(site.keys("", None, 100).await, keys);
        assert_eq!(site.keys("a/b", None, 100).await, ["a/b-c", "a/b.d/x", "a/b/10", "a/b/2", "a/b0"]);
        assert_eq!(site.keys("a/b/", None, 100).await, ["a/b/10", "a/b/2"]);
        assert_eq!(site.keys("a/b/2", None, 100).await, ["a/b/2"]);
        assert_eq!(site.keys("nothing", None, 100).await, Vec::<String>::new());
        assert_eq!(site.keys("z/", None, 100).await, Vec::<String>::new());
        for after in keys.into_iter().chain(["", "a/b/", "a/b/1", "a/b/3", "a/", "a0", "zz", "a/b.e"]) {
            let wanted: Vec<_> = keys.into_iter().filter(|key| *key > after).collect();
            assert_eq!(site.keys("", Some(after), 100).await, wanted, "after {after}");
        }
        for page in 1..=keys.len() {
            let (mut all, mut after) = (Vec::new(), None);
            loop {
                let found = site.keys("", after.as_deref(), page).await;
                let last = found.len() < page;
                after = found.last().cloned();
                all.extend(found);
                if last {
                    break;
                }
            }
            assert_eq!(all, keys, "by {page}");
        }
    });
}

#[test]
fn a_listing_says_how_long_and_how_old() {
    on_each(async |site| {
        // A store's clock may tell whole seconds only.
        let before = now_unix_micros() - 1_000_000;
        site.put("s/a", b"rows").await;
        let found = site.objects.list("s/", None, 10).await.expect("a listing");
        let [ObjectEntry { key, bytes: 4, modified_unix_micros }] = &found[..] else { panic!("{found:?}") };
        assert_eq!(key, "s/a");
        assert!((before..=now_unix_micros() + 1_000_000).contains(modified_unix_micros), "{modified_unix_micros}");
    });
}

#[test]
fn objects_and_folders_go_and_their_neighbours_stay() {
    on_each(async |site| {
        for key in ["one/1/a", "one/1/b", "one/2/a", "one-more/a", "two/a"] {
            site.put(key, b"rows").await;
        }
        site.objects.remove("one/1/a").await.expect("removed");
        site.objects.remove("one/1/a").await.expect("removed again");
        site.objects.remove("never/was").await.expect("nothing to remove");
        assert_eq!(site.keys("", None, 10).await, ["one-more/a", "one/1/b", "one/2/a", "two/a"]);
        site.objects.remove_prefix("one/1").await.expect("removed");
        assert_eq!(site.keys("", None, 10).await, ["one-more/a", "one/2/a", "two/a"]);
        site.objects.remove_prefix("one").await.expect("removed");
        site.objects.remove_prefix("one").await.expect("removed again");
        assert_eq!(site.keys("", None, 10).await, ["one-more/a", "two/a"]);
        site.put("one/1/a", b"new").await;
        assert_eq!(site.get("one/1/a").await.as_deref(), Some(&b"new"[..]));
        site.objects.check().await.expect("it works");
    });
}

#[test]
fn puts_and_removals_side_by_side_do_not_disturb_each_other() {
    on_each(async |site| {
        let put = async |n: usize| {
            let key = format!("s/{}/{n}", n % 3);
            site.objects.put_bytes(&key, Bytes::from(vec![n as u8; n])).await.expect("put");
            if n.is_multiple_of(2) {
                site.objects.remove(&key).await.expect("removed");
            }
        };
        futures_util::future::join_all((0..60).map(put)).await;
        let mut wanted: Vec<_> = (0..60).filter(|n| n % 2 == 1).map(|n| format!("s/{}/{n}", n % 3)).collect();
        wanted.sort_unstable();
        assert_eq!(site.keys("", None, 100).await, wanted);
    });
}

#[test]
fn a_long_file_is_the_same_object() {
    on_each(async |site| {
        // More than two parts, the last one short.
        let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        site.put("s/long", &content).await;
        assert_eq!(site.get("s/long").await.expect("it is there"), content);
        site.put("s/long", &content).await;
        let mut other = content.clone();
        other[11_000_000] ^= 1;
        let refused = site.try_put("s/long", &other).await;
        assert!(matches!(refused, Err(ObjectError::Different { .. })), "{refused:?}");
        assert_eq!(site.get("s/long").await.expect("it is there"), content);
        let staged = site.staged(&other);
        let lost = site.objects.put(&staged, "s/other", other.len() as u64, crc32c::crc32c(&content)).await;
        assert!(matches!(lost, Err(ObjectError::StagedLost { .. })), "{lost:?}");
        assert_eq!(site.keys("", None, 10).await, ["s/long"]);
        if let Some(store) = &site.store {
            assert!(store.count("put_part") > 2, "it went up in parts");
            assert!(store.state().uploads.is_empty(), "what failed was aborted");
        }
    });
}

#[test]
fn a_store_holds_nothing_but_objects() {
    on_each(async |site| {
        site.put("s/a", b"rows").await;
        site.objects.remove("s/a").await.expect("removed");
        if let Some(store) = &site.store {
            assert_eq!(store.state().objects.len(), 0, "probes are removed");
        }
    });
}

#[test]
fn what_is_staged_on_another_file_system_is_put_too() {
    let site = Site::local();
    let elsewhere = site.dir.path().join("elsewhere");
    let _disk = SmallDisk::mount(&elsewhere, "1m");
    let device = |dir: &Path| fs::metadata(dir).expect("it is there").dev();
    assert_ne!(device(site.dir.path()), device(&elsewhere), "two file systems");
    let objects = site.dir.path().join("objects");
    let staged = elsewhere.join("staged");
    let (bytes, checksum) = (4, crc32c::crc32c(b"rows"));
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
        fs::write(&staged, b"rows").expect("written");
        site.objects.put(&staged, "a/b", bytes, checksum).await.expect("put");
        assert!(!staged.exists());
        assert_eq!(fs::read(objects.join("a/b")).expect("the object"), b"rows");
        fs::write(&staged, b"torn").expect("written");
        let refused = site.objects.replace(&staged, "a/b", bytes, checksum).await;
        assert!(matches!(refused, Err(ObjectError::StagedLost { .. })), "{refused:?}");
        assert_eq!(fs::read(objects.join("a/b")).expect("the object"), b"rows");
        assert_eq!(fs::read_dir(objects.join(".new")).expect("a listing").count(), 0, "no copy is left");
    });
}
