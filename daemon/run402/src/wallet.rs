//! The wallet file: the key that signs in and pays.
//!
//! `allowance.json` in the profile's directory, shared with other clients of the API. Fields that we do
//! not know stay when it is written. The private key is erased from memory when it is dropped, and is in
//! no message.

use crate::environment::Environment;
use crate::error::Error;
use crate::files::{self, Exposure, FileError, Lock, SecretFile};
use crate::signin::{Address, Signer};
use rand::RngExt;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

const FILE: &str = "allowance.json";
/// What the file was called once.
const OLD_FILE: &str = "wallet.json";
const ADDRESS_LENGTH: usize = 2 + 40;
const KEY_LENGTH: usize = 2 + 64;

#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path} is not a wallet: {what}; move it away and create a new one")]
    Shape { path: PathBuf, what: &'static str },
    #[error("there is a wallet in {path} already")]
    Exists { path: PathBuf },
    #[error("there is no wallet in {path} any more, or it is another one")]
    Changed { path: PathBuf },
    #[error("the wallet in {path} pays by mpp, which this client does not speak; use a wallet with rail x402 to pay")]
    Rail { path: PathBuf },
}

impl From<WalletError> for Error {
    fn from(error: WalletError) -> Self {
        Self::local("WALLET", error.to_string())
    }
}

/// What a user should hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalletWarning {
    /// Others could read the key until now: they may have it.
    WasReadable { path: PathBuf },
    /// Others can read the key, and that could not be changed.
    IsReadable { path: PathBuf, why: String },
}

impl fmt::Display for WalletWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WasReadable { path } => {
                write!(f, "others could read {} until now; it is yours alone again", path.display())
            }
            Self::IsReadable { path, why } => write!(f, "others can read {}: {why}", path.display()),
        }
    }
}

/// Which way of paying a wallet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rail {
    #[default]
    X402,
    /// A test network's; it can be read, not used.
    Mpp,
}

/// The file, known fields first.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    address: String,
    private_key: Zeroizing<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    funded: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rail: Option<Rail>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Content {
    /// `None` for what is no JSON; the key that belongs to the address otherwise.
    fn read(bytes: &[u8], path: &Path) -> Result<Option<(Self, Signer)>, WalletError> {
        // The reader's own words may hold what it read, so that none of them are repeated.
        let shape = |what| WalletError::Shape { path: path.to_owned(), what };
        if serde_json::from_slice::<IgnoredAny>(bytes).is_err() {
            return Ok(None);
        }
        let content: Self = serde_json::from_slice(bytes)
            .map_err(|_| shape("address or privateKey are missing, or a field is of another type"))?;
        let address = Some(&content.address).filter(|text| text.len() == ADDRESS_LENGTH);
        let address: Address = address.and_then(|text| text.parse().ok()).ok_or_else(|| shape("no usable address"))?;
        let no_key = || shape("no usable private key");
        let key = Some(&content.private_key).filter(|text| text.len() == KEY_LENGTH);
        let digits = key.and_then(|text| text.strip_prefix("0x")).ok_or_else(no_key)?;
        let mut key = Zeroizing::new([0; 32]);
        hex::decode_to_slice(digits, key.as_mut_slice()).map_err(|_| no_key())?;
        let signer = Signer::from_bytes(&key).map_err(|_| no_key())?;
        if signer.address() != address {
            return Err(shape("the private key is not that of the address"));
        }
        Ok(Some((content, signer)))
    }

    fn bytes(&self) -> Zeroizing<Vec<u8>> {
        // Large enough at once: a vector that grows leaves copies of its content behind. What we do not know
        // is written to be measured; there is no key in it.
        let unknown = serde_json::to_vec_pretty(&self.rest).expect("an object can be written as JSON").len();
        let mut bytes = Zeroizing::new(Vec::with_capacity(unknown + 1024));
        serde_json::to_writer_pretty(&mut *bytes, self).expect("memory can be written to");
        bytes
    }
}

/// A key, and what is known of it.
#[derive(Clone)]
pub struct Wallet {
    path: PathBuf,
    signer: Signer,
    content: Content,
    warnings: Vec<WalletWarning>,
}

impl fmt::Debug for Wallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wallet").field("path", &self.path).field("address", &self.address()).finish_non_exhaustive()
    }
}

/// Where the wallet of this environment is.
pub fn path(environment: &Environment) -> PathBuf {
    environment.allowance.clone().unwrap_or_else(|| environment.profile_dir().join(FILE))
}

/// Where it was once; only the profile's own file had another name.
fn old_path(environment: &Environment) -> Option<PathBuf> {
    environment.allowance.is_none().then(|| environment.profile_dir().join(OLD_FILE))
}

fn now() -> Value {
    OffsetDateTime::now_utc().format(&Rfc3339).expect("this century can be written in RFC 3339").into()
}

impl Wallet {
    /// `None` when there is no file, or one that is not JSON.
    pub fn load(environment: &Environment) -> Result<Option<Self>, WalletError> {
        let path = path(environment);
        if let Some(old) = old_path(environment)
            && old.is_file()
        {
            match files::rename_new(&old, &path) {
                Ok(()) => {}
                // A wallet under the new name is the one that counts.
                Err(error) if error.is_taken() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let Some(SecretFile { bytes, exposure }) = files::read_secret(&path)? else { return Ok(None) };
        let Some((content, signer)) = Content::read(&bytes, &path)? else { return Ok(None) };
        let warnings = match exposure {
            Exposure::None => Vec::new(),
            Exposure::Ended => vec![WalletWarning::WasReadable { path: path.clone() }],
            Exposure::Lasting(error) => vec![WalletWarning::IsReadable { path: path.clone(), why: error.to_string() }],
        };
        Ok(Some(Self { path, signer, content, warnings }))
    }

    /// A new key, for x402; never in place of another file, whatever is in it.
    pub fn create(environment: &Environment) -> Result<Self, WalletError> {
        let path = path(environment);
        if let Some(old) = old_path(environment).filter(|old| old.symlink_metadata().is_ok()) {
            return Err(WalletError::Exists { path: old });
        }
        let (key, signer) = loop {
            let key = Zeroizing::new(rand::rng().random::<[u8; 32]>());
            // All but a few of 2^256 numbers are keys.
            if let Ok(signer) = Signer::from_bytes(&key) {
                break (key, signer);
            }
        };
        let content = Content {
            address: signer.address().to_lower(),
            private_key: key_text(&key),
            funded: Some(false),
            rail: Some(Rail::X402),
            rest: [("created".to_owned(), now())].into_iter().collect(),
        };
        match files::create_private(&path, &content.bytes()) {
            Ok(()) => Ok(Self { path, signer, content, warnings: Vec::new() }),
            Err(error) if error.is_taken() => Err(WalletError::Exists { path }),
            Err(error) => Err(error.into()),
        }
    }

    pub fn signer(&self) -> Signer {
        self.signer.clone()
    }

    /// The same, for payments. Refused when the wallet pays in a way that we do not know.
    pub fn paying_signer(&self) -> Result<Signer, WalletError> {
        match self.rail() {
            Rail::X402 => Ok(self.signer()),
            Rail::Mpp => Err(WalletError::Rail { path: self.path.clone() }),
        }
    }

    pub fn address(&self) -> Address {
        self.signer.address()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn warnings(&self) -> &[WalletWarning] {
        &self.warnings
    }

    /// The faucet has given.
    pub fn is_funded(&self) -> bool {
        self.content.funded == Some(true)
    }

    /// x402, unless the file names another.
    pub fn rail(&self) -> Rail {
        self.content.rail.unwrap_or_default()
    }

    /// Remembers that the faucet has given.
    pub async fn set_funded(&mut self) -> Result<(), WalletError> {
        self.change(|content| {
            content.funded = Some(true);
            content.rest.insert("lastFaucet".to_owned(), now());
        })
        .await
    }

    pub async fn set_rail(&mut self, rail: Rail) -> Result<(), WalletError> {
        self.change(|content| content.rail = Some(rail)).await
    }

    /// Reads the file again first: others may have written it. Refused when it holds another key by now.
    async fn change(&mut self, change: impl FnOnce(&mut Content)) -> Result<(), WalletError> {
        let _lock = Lock::acquire(&self.path).await?;
        let changed = || WalletError::Changed { path: self.path.clone() };
        let bytes = files::read_secret(&self.path)?.ok_or_else(changed)?.bytes;
        let (mut content, signer) = Content::read(&bytes, &self.path)?.ok_or_else(changed)?;
        if signer.address() != self.address() {
            return Err(changed());
        }
        change(&mut content);
        files::write_private(&self.path, &content.bytes())?;
        self.content = content;
        Ok(())
    }
}

fn key_text(key: &[u8; 32]) -> Zeroizing<String> {
    let mut digits = Zeroizing::new([0; 64]);
    hex::encode_to_slice(key, digits.as_mut_slice()).expect("a byte is two digits");
    let mut text = Zeroizing::new(String::with_capacity(KEY_LENGTH));
    text.push_str("0x");
    text.push_str(std::str::from_utf8(digits.as_slice()).expect("digits are ASCII"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn environment(directory: &Path) -> Environment {
        let config = directory.as_os_str().to_owned();
        let look_up = move |name: &str| (name == "RUN402_CONFIG_DIR").then(|| config.clone());
        Environment::resolve(&look_up, &"http://127.0.0.1:7403".parse().expect("a base")).expect("good")
    }

    fn load(environment: &Environment) -> Wallet {
        Wallet::load(environment).expect("no error").expect("a wallet")
    }

    fn fields(wallet: &Wallet) -> Value {
        serde_json::from_slice(&fs::read(wallet.path()).expect("the file")).expect("JSON")
    }

    #[tokio::test]
    async fn a_wallet_is_made_once_and_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let environment = environment(directory.path());
        assert!(Wallet::load(&environment).expect("no error").is_none());
        let mut made = Wallet::create(&environment).expect("a wallet");
        made.set_funded().await.expect("written");
        let read = load(&environment);
        assert_eq!((read.address(), read.is_funded(), read.rail()), (made.address(), true, Rail::X402));
        assert_eq!(read.warnings(), []);
        assert!(matches!(Wallet::create(&environment), Err(WalletError::Exists { .. })));
        assert_eq!(fs::metadata(read.path()).expect("the file").permissions().mode() & 0o777, 0o600);
        let fields = fields(&read);
        assert_eq!(fields["address"], json!(made.address().to_lower()));
        let key = fields["privateKey"].as_str().expect("a key");
        assert_eq!((key.len(), key == key.to_lowercase()), (KEY_LENGTH, true));
        assert!(!format!("{read:?} {:?}", read.signer()).contains(key.trim_start_matches("0x")));
    }

    #[test]
    fn nothing_is_overwritten_by_a_new_wallet() {
        for name in [FILE, OLD_FILE] {
            let directory = tempfile::tempdir().expect("a directory");
            let environment = environment(directory.path());
            let file = directory.path().join(name);
            fs::write(&file, "{cut off, but there may be a key in it").expect("a file");
            let error = Wallet::create(&environment).expect_err("there is a file");
            assert!(matches!(&error, WalletError::Exists { path } if *path == file), "{error}");
            fs::remove_file(&file).expect("removed");
            symlink(directory.path().join("nowhere"), &file).expect("a link");
            Wallet::create(&environment).expect_err("there is a link");
            assert!(!directory.path().join("nowhere").exists());
        }
    }

    #[test]
    fn an_old_name_is_changed_and_open_access_is_closed() {
        let directory = tempfile::tempdir().expect("a directory");
        let environment = environment(directory.path());
        let made = Wallet::create(&environment).expect("a wallet");
        let old = directory.path().join(OLD_FILE);
        fs::rename(made.path(), &old).expect("renamed");
        fs::set_permissions(&old, fs::Permissions::from_mode(0o644)).expect("opened");
        let read = load(&environment);
        assert_eq!(read.warnings(), [WalletWarning::WasReadable { path: made.path().to_owned() }]);
        assert!(!old.exists());
        assert_eq!(fs::metadata(read.path()).expect("the file").permissions().mode() & 0o777, 0o600);
        assert_eq!(load(&environment).warnings(), []);
        // The one under the new name counts, and the other is not lost.
        fs::write(&old, "{}").expect("a file");
        assert_eq!(load(&environment).address(), made.address());
        assert!(old.exists());
    }

    #[tokio::test]
    async fn fields_of_others_stay() {
        let directory = tempfile::tempdir().expect("a directory");
        let environment = environment(directory.path());
        let mut made = Wallet::create(&environment).expect("a wallet");
        let mut before = fields(&made);
        before["surprise"] = json!([1, 2]);
        before["long"] = json!("x".repeat(10_000));
        fs::write(made.path(), before.to_string()).expect("written by another client");
        made.set_funded().await.expect("written");
        let mut after = fields(&made);
        assert!(after["lastFaucet"].is_string());
        after.as_object_mut().expect("an object").remove("lastFaucet");
        before["funded"] = json!(true);
        assert_eq!(after, before);
    }

    #[tokio::test]
    async fn another_wallet_in_its_place_is_not_overwritten() {
        let directory = tempfile::tempdir().expect("a directory");
        let environment = environment(directory.path());
        let mut first = Wallet::create(&environment).expect("a wallet");
        fs::remove_file(first.path()).expect("removed");
        assert!(matches!(first.set_funded().await, Err(WalletError::Changed { .. })));
        let second = Wallet::create(&environment).expect("a wallet");
        assert!(matches!(first.set_funded().await, Err(WalletError::Changed { .. })));
        assert_eq!(load(&environment).address(), second.address());
    }

    #[tokio::test]
    async fn a_wallet_for_another_rail_signs_in_and_does_not_pay() {
        let directory = tempfile::tempdir().expect("a directory");
        let environment = environment(directory.path());
        let mut wallet = Wallet::create(&environment).expect("a wallet");
        wallet.set_rail(Rail::Mpp).await.expect("written");
        assert_eq!(fields(&wallet)["rail"], json!("mpp"));
        assert_eq!(load(&environment).signer().address(), wallet.address());
        let error = load(&environment).paying_signer().expect_err("not by mpp");
        assert!(error.to_string().contains("pays by mpp"), "{error}");
        wallet.set_rail(Rail::X402).await.expect("written");
        assert_eq!(load(&environment).paying_signer().expect("x402").address(), wallet.address());
    }

    #[test]
    fn what_is_no_wallet_is_told_from_no_wallet() {
        let directory = tempfile::tempdir().expect("a directory");
        let environment = environment(directory.path());
        let file = directory.path().join(FILE);
        for broken in ["", "{not json", "\u{0}"] {
            fs::write(&file, broken).expect("a file");
            assert!(Wallet::load(&environment).expect("as if there were none").is_none());
        }
        let (other, key) = (format!("0x{}", "11".repeat(20)), format!("0x{}", "22".repeat(32)));
        let signer = Signer::from_bytes(&[0x22; 32]).expect("a key");
        for shape in [
            json!([]),
            json!("text"),
            json!({}),
            json!({"address": "0x1", "privateKey": key}),
            json!({"address": other, "privateKey": key}),
            json!({"address": signer.address().to_lower(), "privateKey": &key[2..]}),
            json!({"address": signer.address().to_lower(), "privateKey": 22_222_222}),
            json!({"address": signer.address().to_lower(), "privateKey": key, "rail": "gold"}),
            json!({"address": signer.address().to_lower(), "privateKey": key, "funded": "22222222"}),
            json!({"address": other, "privateKey": format!("0x{}", "00".repeat(32))}),
        ] {
            fs::write(&file, shape.to_string()).expect("a file");
            let error = Wallet::load(&environment).expect_err("the wrong shape");
            assert!(matches!(error, WalletError::Shape { .. }), "{error}");
            assert!(!format!("{error} {error:?}").contains("22222222"), "{error}");
        }
        let good = json!({"address": signer.address().to_string(), "privateKey": key});
        fs::write(&file, good.to_string()).expect("a file");
        assert_eq!(load(&environment).rail(), Rail::X402);
    }
}
