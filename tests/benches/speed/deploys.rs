//! Deploys to a local gateway: finding out what has changed, and sending it.
//!
//! The client's own time is the processor time of this process, in which nothing else runs meanwhile: the
//! gateway is another one.

use crate::Effort;
use crate::contenders::Contenders;
use crate::table::{Row, Target, Times, ms, ratio, spread};
use run402::account::Account;
use run402::deploy::spec::{Directory, Files, ReleaseSpec, Site};
use run402::deploy::walk::Root;
use run402::deploy::{Deploy, Options, Silent};
use run402::environment::{Base, Environment};
use rustix::time::{ClockId, clock_gettime};
use sandbox_tests::cli::Person;
use sandbox_tests::gateway::Gateway;
use sandbox_tests::host;
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

const FOLDERS: usize = 100;
const FILES: usize = 10_000;
const FILE_BYTES: usize = 4096;
/// A site of these: one is sent in parts, the others whole.
const LARGE_FILES: [usize; 9] =
    [512 << 20, 64 << 20, 64 << 20, 64 << 20, 64 << 20, 64 << 20, 64 << 20, 64 << 20, 64 << 20];
/// The state of a file that was changed just now is not remembered.
const REST: Duration = Duration::from_secs(3);

/// Bytes that do not repeat; the same seed gives the same.
fn fill(bytes: &mut [u8], seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
}

fn write_small(folder: &Path) {
    let mut bytes = vec![0; FILE_BYTES];
    for number in 0..FILES {
        let folder = folder.join(format!("part-{:02}", number % FOLDERS));
        fs::create_dir_all(&folder).expect("the folder is ours");
        fill(&mut bytes, number as u64);
        fs::write(folder.join(format!("file-{number:05}.txt")), &bytes).expect("the folder is ours");
    }
}

/// Every file's hash, as somebody who needs nothing else would find it: the files are listed, and two threads
/// read half of them each.
fn bare_hashes(folder: &Path) -> usize {
    let mut files = Vec::new();
    list(folder, &mut files);
    let hash = |files: &[PathBuf]| -> Vec<[u8; 32]> {
        let mut buffer = Vec::new();
        let hash = |path: &PathBuf| {
            buffer.clear();
            File::open(path).and_then(|mut file| file.read_to_end(&mut buffer)).expect("the file is ours");
            Sha256::digest(&buffer).into()
        };
        files.iter().map(hash).collect()
    };
    let (first, second) = files.split_at(files.len() / 2);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| hash(second).len());
        hash(first).len() + other.join().expect("it does not panic")
    })
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is ours").flatten() {
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => list(&entry.path(), files),
            false => files.push(entry.path()),
        }
    }
}

/// A client in this process, its gateway in another.
struct Client {
    account: Account,
    project: String,
    options: Options,
}

impl Client {
    async fn new(person: &Person, gateway: &Gateway) -> Self {
        let config: OsString = person.folder("config").into();
        let look_up = move |name: &str| (name == "RUN402_CONFIG_DIR").then(|| config.clone());
        let base: Base = gateway.base.parse().expect("an address");
        let environment = Environment::resolve(&look_up, &base).expect("an environment");
        let account = Account::open(&environment).expect("a wallet is made");
        let project = account.provision(Some("speed")).await.expect("a project is made");
        let options = Options { cache: Some(person.home().join("hashes")), ..Options::default() };
        Self { account, project, options }
    }

    fn deploy(&self, folder: &Path) -> Deploy {
        let site = Site { replace: Some(Files::Directory(Directory::new("."))), ..Site::default() };
        let spec = ReleaseSpec { project: self.project.clone(), site: Some(site), ..ReleaseSpec::default() };
        Deploy::new(spec, Some(Root::open(folder).expect("the folder is ours")))
    }

    async fn apply(&self, folder: &Path) {
        let deployed = self.deploy(folder).apply(&self.account.client, &self.options, &Arc::default(), &Silent).await;
        deployed.expect("it is deployed");
    }

    /// Every file is read.
    async fn plan(&self, folder: &Path) {
        let options = Options::default();
        let planned = self.deploy(folder).dry_run(&self.account.client, &options, &Arc::default()).await;
        planned.expect("it is planned");
    }
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().expect("it counts from zero")
}

pub(crate) fn many_files(contenders: &Contenders<'_>, effort: Effort) -> Vec<Row> {
    let person = Person::alone();
    let folder = person.folder("site");
    write_small(&folder);
    std::thread::sleep(REST);
    let gateway = Gateway::start(&person, &person.folder("gateway"));
    contenders.runtime.block_on(async {
        let client = Client::new(&person, &gateway).await;
        let (mut bare, mut planned) = (Vec::new(), Vec::new());
        for round in 0..=effort.deploys {
            let started = Instant::now();
            assert_eq!(bare_hashes(&folder), FILES);
            let middle = Instant::now();
            client.plan(&folder).await;
            // The first round warms everything up.
            if round > 0 {
                bare.push(middle - started);
                planned.push(middle.elapsed());
            }
        }
        let started = Instant::now();
        client.apply(&folder).await;
        let first = started.elapsed();
        let (mut whole, mut own) = (Vec::new(), Vec::new());
        for _ in 0..effort.deploys {
            let (started, before) = (Instant::now(), processor_time());
            client.apply(&folder).await;
            whole.push(started.elapsed());
            own.push(processor_time() - before);
        }
        let (bare, planned, whole, own) = (Times::new(bare), Times::new(planned), Times::new(whole), Times::new(own));
        let to_bare = ratio(planned.median(), bare.median());
        let own = own.median().unwrap_or(Duration::MAX);
        vec![
            Row {
                case: "hashing and planning 10,000 files of 4 KiB",
                ours: spread(&planned),
                bare: spread(&bare),
                bwrap: "–".to_owned(),
                figure: to_bare.map_or("–".to_owned(), |factor| format!("{factor:.2} × walk and SHA-256, 2 threads")),
                target: Some(Target { text: "≤ 1.5 × bare", met: to_bare.is_some_and(|factor| factor <= 1.5) }),
            },
            Row {
                case: "deploying them again, unchanged",
                ours: spread(&whole),
                bare: "–".to_owned(),
                bwrap: "–".to_owned(),
                figure: format!("{} ms of the client (first: {} ms in all)", ms(own), ms(first)),
                target: Some(Target { text: "≤ 100 ms of the client", met: own <= Duration::from_millis(100) }),
            },
        ]
    })
}

fn write_large(folder: &Path) -> u64 {
    let mut chunk = vec![0; 1 << 20];
    let mut total = 0;
    for (number, size) in LARGE_FILES.into_iter().enumerate() {
        let mut file = File::create(folder.join(format!("large-{number}.bin"))).expect("the folder is ours");
        for part in 0..size / chunk.len() {
            fill(&mut chunk, (number * 1000 + part) as u64 + 1);
            file.write_all(&chunk).expect("the disk has room");
        }
        total += size as u64;
    }
    total
}

pub(crate) fn large_site(_: &Contenders<'_>, effort: Effort) -> Vec<Row> {
    let person = Person::alone();
    let folder = person.folder("large");
    let bytes = write_large(&folder);
    let (mut rates, mut client_kib, mut gateway_kib) = (Vec::new(), 0, 0);
    for round in 0..effort.kills {
        // What earlier rounds have left to be written would be waited for.
        rustix::fs::sync();
        let gateway = Gateway::start(&person, &person.folder(&format!("gateway-{round}")));
        let mut command = person.command(&["deploy", "site", "--json", &folder.to_string_lossy()]);
        command.env("RUN402_API_BASE", &gateway.base).env("RUN402_CONFIG_DIR", person.folder("keys"));
        let started = Instant::now();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("sandboxctl starts");
        let status = loop {
            client_kib = client_kib.max(host::status_kib(child.id(), "VmHWM").unwrap_or_default());
            if let Some(status) = child.try_wait().expect("it is our child") {
                break status;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        rates.push(bytes as f64 / started.elapsed().as_secs_f64() / 1e6);
        assert!(status.success(), "the site is deployed");
        gateway_kib = gateway_kib.max(host::status_kib(gateway.child.id(), "VmHWM").unwrap_or_default());
        drop(gateway);
        fs::remove_dir_all(person.home().join(format!("gateway-{round}"))).expect("it is ours");
    }
    rates.sort_unstable_by(f64::total_cmp);
    let median = rates[rates.len() / 2];
    let [client, gateway] = [client_kib, gateway_kib].map(|kib| kib as f64 / 1024.0);
    vec![
        Row::alone(
            "deploying a site of 1 GiB, from the first byte hashed to live",
            format!("{median:.0} MB/s"),
            Some(Target { text: "≥ 300 MB/s", met: median >= 300.0 }),
        ),
        Row::alone(
            "— memory, at most",
            format!("{client:.0} MiB client, {gateway:.0} MiB gateway"),
            Some(Target { text: "≤ 128 MB each", met: client.max(gateway) * 1.048_576 <= 128.0 }),
        ),
    ]
}
