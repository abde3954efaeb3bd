//! The files that the client shares with others: what older clients left, what a crash leaves, what
//! somebody put there on purpose, and several writers at once.

use run402::FileError;
use run402::client::{KeyPair, Keyring, Secret};
use run402::environment::{Base, Environment};
use run402::keys::{Field, KeyCache};
use run402::wallet::{self, Wallet, WalletError};
use serde_json::{Value, json};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const BASE: &str = "http://127.0.0.1:7403";
const KEYS: &str = "credentials/project-keys.v1.json";
const STATE: &str = "state.json";
const OLD: &str = "projects.json";

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("config").join(name)
    }

    fn environment(&self) -> Environment {
        let config = self.path("");
        let look_up = move |name: &str| (name == "RUN402_CONFIG_DIR").then(|| config.clone().into_os_string());
        Environment::resolve(&look_up, &BASE.parse().expect("a base")).expect("good")
    }

    fn cache(&self) -> KeyCache {
        self.cache_of(BASE, Some("0xabc"))
    }

    fn cache_of(&self, base: &str, principal: Option<&str>) -> KeyCache {
        let base: Base = base.parse().expect("a base");
        KeyCache::new(&self.environment(), &base, principal)
    }

    fn put(&self, name: &str, value: &Value) {
        self.put_text(name, &value.to_string());
    }

    fn put_text(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    fn get(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).expect("a file")).expect("JSON")
    }

    /// The names in the directory of a file.
    fn beside(&self, name: &str) -> Vec<String> {
        let list = fs::read_dir(self.path(name).parent().expect("a parent")).expect("a directory");
        let mut names: Vec<_> =
            list.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn pair(name: &str) -> KeyPair {
    KeyPair { anon: Secret::new(format!("anon_{name}")), service: Secret::new(format!("service_{name}")) }
}

fn anon(cache: &KeyCache, project: &str) -> Option<String> {
    cache.project(project).expect("no error").map(|found| found.keys.anon.reveal().to_owned())
}

fn active(cache: &KeyCache) -> Option<String> {
    cache.active().expect("no error")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

fn old_projects() -> Value {
    json!({"active_project_id": "p", "previous_active_project_id": "q", "projects": {
        "p": {"anon_key": "anon_p", "service_key": "service_p", "tier": "hobby", "mailbox_id": "m"},
        "q": {"anon_key": "anon_q", "service_key": "service_q", "site_url": "http://q", "surprise": [1]}}})
}

#[tokio::test]
async fn keys_are_kept_and_the_active_project_goes_back() {
    let place = Place::new();
    let cache = place.cache();
    assert_eq!((anon(&cache, "a"), active(&cache)), (None, None));
    assert!(!place.path("").exists(), "reading makes nothing");
    cache.save_project("a", &pair("a")).await.expect("saved");
    cache.save_project("b", &pair("b")).await.expect("saved");
    assert_eq!(active(&cache).as_deref(), Some("b"));
    assert_eq!(cache.projects().expect("no error"), ["a", "b"]);
    let keys = cache.keys("a").expect("no error").expect("keys");
    assert_eq!(keys.service.reveal(), "service_a");
    cache.remove_project("b").await.expect("removed");
    assert_eq!((active(&cache).as_deref(), anon(&cache, "b")), (Some("a"), None));
    cache.remove_project("a").await.expect("removed");
    assert_eq!(active(&cache), None);
    for file in [KEYS, STATE] {
        assert_eq!(mode(&place.path(file)), 0o600);
    }
    assert_eq!([mode(&place.path("")), mode(&place.path("credentials"))], [0o700, 0o700]);
    assert_eq!(place.beside(KEYS), ["project-keys.v1.json"]);
    assert_eq!(place.beside(STATE), ["credentials", "state.json"]);
}

#[tokio::test]
async fn what_is_remembered_of_a_project_survives_new_keys() {
    let place = Place::new();
    let cache = place.cache();
    cache.save_project("a", &pair("a")).await.expect("saved");
    let mut keys = place.get(KEYS);
    keys["surprise"] = json!({"x": 1});
    keys["projects"]["a"]["surprise"] = json!([1]);
    place.put(KEYS, &keys);
    let changed = cache.update("a", |entry| {
        entry.set(Field::LastDeploymentId, Some("dpl_1"));
        entry.set(Field::MailboxId, Some("mbx_1"));
        entry.set(Field::MailboxAddress, Some("a@b"));
    });
    assert!(changed.await.expect("changed"));
    assert!(cache.update("a", |entry| entry.set(Field::MailboxAddress, None)).await.expect("changed"));
    cache.save_project("a", &pair("new")).await.expect("saved");
    let found = cache.project("a").expect("no error").expect("keys");
    assert_eq!(found.keys.anon.reveal(), "anon_new");
    assert_eq!((found.last_deployment_id.as_deref(), found.mailbox_id.as_deref()), (Some("dpl_1"), Some("mbx_1")));
    assert_eq!(found.mailbox_address, None);
    let keys = place.get(KEYS);
    assert_eq!((&keys["surprise"], &keys["projects"]["a"]["surprise"]), (&json!({"x": 1}), &json!([1])));
    assert!(!cache.update("nobody", |entry| entry.set(Field::MailboxId, Some("m"))).await.expect("no error"));
    assert_eq!(cache.projects().expect("no error"), ["a"]);
}

#[tokio::test]
async fn an_older_file_is_imported_by_the_first_reading() {
    let place = Place::new();
    place.put(OLD, &old_projects());
    let cache = place.cache();
    assert_eq!((anon(&cache, "p").as_deref(), active(&cache).as_deref()), (Some("anon_p"), Some("p")));
    let keys = place.get(KEYS);
    assert_eq!(
        (&keys["version"], &keys["source"], &keys["migrated_from"]),
        (&json!(1), &json!("local_cache"), &json!(OLD))
    );
    assert_eq!(keys["projects"]["p"].get("tier"), None);
    assert_eq!((&keys["projects"]["p"]["mailbox_id"], &keys["projects"]["q"]["surprise"]), (&json!("m"), &json!([1])));
    assert!(place.get(STATE)["migrations"]["projects_json_import"].is_object());
    assert_eq!(place.get(OLD), old_projects());
    cache.remove_project("p").await.expect("removed");
    assert_eq!((active(&cache).as_deref(), anon(&cache, "p")), (Some("q"), None), "it is not imported again");
}

#[tokio::test]
async fn an_older_file_is_imported_by_the_first_writing() {
    for old in [
        old_projects(),
        json!([{"project_id": "p", "anon_key": "anon_p", "service_key": "service_p", "expires_at": "x"}]),
    ] {
        for write in ["save", "update", "active", "remove"] {
            let place = Place::new();
            place.put(OLD, &old);
            let cache = place.cache();
            match write {
                "save" => cache.save_project("new", &pair("new")).await.expect("saved"),
                "update" => {
                    assert!(cache.update("p", |entry| entry.set(Field::MailboxId, Some("n"))).await.expect("there"))
                }
                "active" => cache.set_active("new").await.expect("set"),
                _ => cache.remove_project("other").await.expect("removed"),
            }
            // Before anything is read.
            assert_eq!(place.get(KEYS)["projects"]["p"]["anon_key"], json!("anon_p"), "{write} {old}");
            assert_eq!(place.get(KEYS)["migrated_from"], json!(OLD));
            assert_eq!(anon(&cache, "p").as_deref(), Some("anon_p"));
            let wanted = match write {
                "save" | "active" => Some("new"),
                _ => old.is_object().then_some("p"),
            };
            assert_eq!(active(&cache).as_deref(), wanted, "{write} {old}");
        }
    }
}

#[tokio::test]
async fn keys_that_another_client_left_behind_are_found() {
    // It made the new file by writing to it, without looking at the old one.
    let place = Place::new();
    place.put(OLD, &old_projects());
    let other = json!({"version": 1, "source": "local_cache", "projects": {
        "p": {"anon_key": "newer_p", "service_key": "newer", "cached_at": "x"},
        "r": {"anon_key": "anon_r", "service_key": "service_r", "cached_at": "x"}}});
    place.put(KEYS, &other);
    place.put(STATE, &json!({"version": 1, "active_project_id": "r"}));
    let cache = place.cache();
    assert_eq!(active(&cache).as_deref(), Some("r"));
    let found: Vec<_> = ["p", "q", "r"].into_iter().map(|project| anon(&cache, project).expect("keys")).collect();
    assert_eq!(found, ["newer_p", "anon_q", "anon_r"]);
    cache.remove_project("q").await.expect("removed");
    assert_eq!(anon(&cache, "q"), None);
}

#[tokio::test]
async fn both_places_of_the_active_project_are_read() {
    let place = Place::new();
    let scope = format!(r#"{{"api_base":"{BASE}","profile":"default","principal":"0xabc"}}"#);
    place.put(
        STATE,
        &json!({"version": 1, "active_project_id": "flat", "active_projects": {
        scope.clone(): {"project_id": "scoped", "previous_project_id": "before", "api_base": BASE, "principal": "0xabc",
            "profile": "default", "updated_at": "x", "surprise": 1}}, "migrations": {}, "surprise": 2}),
    );
    let (here, there) = (place.cache(), place.cache_of("http://other", None));
    assert_eq!((active(&here).as_deref(), active(&there).as_deref()), (Some("scoped"), Some("flat")));
    here.remove_project("scoped").await.expect("removed");
    assert_eq!((active(&here).as_deref(), active(&there).as_deref()), (Some("before"), Some("flat")));
    there.set_active("elsewhere").await.expect("set");
    assert_eq!((active(&here).as_deref(), active(&there).as_deref()), (Some("before"), Some("elsewhere")));
    let state = place.get(STATE);
    let unknown = r#"{"api_base":"http://other","profile":"default","principal":"unknown"}"#;
    assert_eq!(state["active_projects"][unknown]["principal"], json!("unknown"));
    assert_eq!(state["previous_active_project_id"], json!("flat"));
    assert_eq!((&state["surprise"], &state["active_projects"][&scope]["surprise"]), (&json!(2), &json!(1)));
    here.remove_project("before").await.expect("removed");
    assert_eq!(active(&here).as_deref(), Some("elsewhere"), "without an entry of its own the flat one counts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_at_the_same_time_lose_nothing() {
    let place = Place::new();
    place.put(OLD, &old_projects());
    let cache = place.cache();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let cache = cache.clone();
        tasks.spawn(async move {
            for index in 0..5 {
                let name = format!("p{writer}-{index}");
                cache.save_project(&name, &pair(&name)).await.expect("saved");
                assert_eq!(anon(&cache, &name), Some(format!("anon_{name}")));
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(cache.projects().expect("no error").len(), 42);
    assert_eq!(place.beside(KEYS), ["project-keys.v1.json"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_that_share_only_the_directory_lose_nothing() {
    let place = Place::new();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..8 {
        // Each with a queue of its own: what keeps them apart is the lock, as between processes.
        let cache = place.cache();
        tasks.spawn(async move {
            let name = format!("p{writer}");
            cache.save_project(&name, &pair(&name)).await.expect("saved");
        });
    }
    tasks.join_all().await;
    assert_eq!(place.cache().projects().expect("no error").len(), 8);
}

#[tokio::test(start_paused = true)]
async fn what_a_crash_leaves_does_no_harm() {
    let place = Place::new();
    let cache = place.cache();
    cache.save_project("a", &pair("a")).await.expect("saved");
    // Between writing and renaming.
    place.put_text("credentials/.tmp-0011223344556677", "{\"projects\": {\"b\":");
    assert_eq!(anon(&cache, "a").as_deref(), Some("anon_a"));
    cache.save_project("b", &pair("b")).await.expect("saved");
    // While it held the lock: reading goes on, writing says what to remove.
    let lock = place.path(&format!("{KEYS}.lock"));
    fs::create_dir(&lock).expect("a lock");
    assert_eq!(anon(&cache, "b").as_deref(), Some("anon_b"));
    let error = cache.save_project("c", &pair("c")).await.expect_err("locked");
    assert!(matches!(&error, FileError::Locked { path } if *path == lock), "{error}");
    fs::remove_dir(&lock).expect("removed");
    cache.save_project("c", &pair("c")).await.expect("saved");
    assert_eq!(cache.projects().expect("no error"), ["a", "b", "c"]);
}

#[tokio::test]
async fn an_older_file_is_read_while_another_client_holds_the_lock() {
    let place = Place::new();
    place.put(OLD, &old_projects());
    place.put_text("credentials/other", "");
    fs::create_dir(place.path(&format!("{KEYS}.lock"))).expect("a lock");
    let cache = place.cache();
    assert_eq!((anon(&cache, "p").as_deref(), active(&cache).as_deref()), (Some("anon_p"), Some("p")));
    assert!(!place.path(KEYS).exists() && !place.path(STATE).exists());
    fs::remove_dir(place.path(&format!("{KEYS}.lock"))).expect("removed");
    assert_eq!(active(&cache).as_deref(), Some("p"));
    assert!(place.path(KEYS).exists() && place.path(STATE).exists());
}

#[tokio::test]
async fn a_broken_file_reads_as_empty_and_is_put_aside() {
    for broken in
        ["{\"projects\": {\"a\": {\"anon_key\": \"precious", "[\"precious\"]", "{\"projects\": [\"precious\"]}", ""]
    {
        let place = Place::new();
        let cache = place.cache();
        cache.save_project("a", &pair("a")).await.expect("saved");
        place.put_text(KEYS, broken);
        place.put_text(STATE, broken);
        assert_eq!((anon(&cache, "a"), cache.projects().expect("no error").len()), (None, 0));
        assert_eq!(fs::read_to_string(place.path(KEYS)).expect("a file"), broken, "reading changes nothing");
        cache.save_project("b", &pair("b")).await.expect("saved");
        assert_eq!((anon(&cache, "b").as_deref(), active(&cache).as_deref()), (Some("anon_b"), Some("b")));
        let aside: Vec<_> = place.beside(KEYS).into_iter().filter(|name| name.contains(".broken-")).collect();
        assert_eq!(aside.len(), 1, "{aside:?}");
        let kept = fs::read_to_string(place.path("credentials").join(&aside[0])).expect("a file");
        assert_eq!(kept, broken);
    }
}

#[tokio::test]
async fn hostile_files_are_neither_followed_nor_waited_for() {
    for kind in ["directory", "fifo", "huge"] {
        let place = Place::new();
        place.put_text("credentials/other", "");
        let path = place.path(KEYS);
        match kind {
            "directory" => fs::create_dir(&path).expect("a directory"),
            "fifo" => rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).expect("a FIFO"),
            _ => File::create(&path).and_then(|file| file.set_len(1 << 40)).expect("a sparse file"),
        }
        let cache = place.cache();
        let error = cache.project("a").expect_err(kind);
        assert!(matches!(error, FileError::Kind { .. }), "{kind}: {error}");
        cache.save_project("a", &pair("a")).await.expect_err(kind);
        assert_eq!(place.beside(KEYS).len(), 2, "{kind}: nothing is left beside it");
        fs::rename(&path, wallet::path(&place.environment())).expect("moved");
        let error = Wallet::load(&place.environment()).expect_err(kind);
        assert!(matches!(error, WalletError::File(FileError::Kind { .. })), "{kind}: {error}");
    }
}

#[tokio::test]
async fn a_link_in_place_of_the_keys_is_replaced_and_not_written_through() {
    let place = Place::new();
    let outside = place.directory.path().join("outside.json");
    let theirs = json!({"projects": {"x": {"anon_key": "a", "service_key": "s"}}}).to_string();
    fs::write(&outside, &theirs).expect("a file");
    fs::set_permissions(&outside, Permissions::from_mode(0o644)).expect("opened");
    place.put_text("credentials/other", "");
    symlink(&outside, place.path(KEYS)).expect("a link");
    let cache = place.cache();
    cache.save_project("a", &pair("a")).await.expect("saved");
    assert_eq!(fs::read_to_string(&outside).expect("a file"), theirs);
    assert_eq!(mode(&outside), 0o644);
    assert!(fs::symlink_metadata(place.path(KEYS)).expect("a file").is_file());
    assert_eq!(anon(&cache, "a").as_deref(), Some("anon_a"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_new_wallets_one_is_made() {
    let place = Place::new();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let environment = place.environment();
        tasks.spawn_blocking(move || Wallet::create(&environment).map(|wallet| wallet.address()));
    }
    let made: Vec<_> = tasks.join_all().await.into_iter().filter_map(Result::ok).collect();
    let read = Wallet::load(&place.environment()).expect("no error").expect("a wallet");
    assert_eq!(made, [read.address()]);
    assert_eq!(place.beside(STATE), ["allowance.json"]);
}
