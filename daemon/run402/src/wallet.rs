//! The wallet file: the key that signs in.
//!
//! `allowance.json` in the profile's directory, shared with other clients of the API. Fields that we do
//! not know stay when it is written.

use crate::environment::Environment;
use crate::error::Error;
use crate::files::{self, FileError, Lock};
use crate::signin::{Address, Signer};
use rand::RngExt;
use serde_json::{Map, Value, json};
use std::fmt;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

const FILE: &str = "allowance.json";
/// What the file was called once.
const OLD_FILE: &str = "wallet.json";

#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path} is not a wallet: {what}; move it away and create a new one")]
    Shape { path: PathBuf, what: &'static str },
    #[error("there is a wallet in {path} already")]
    Exists { path: PathBuf },
}

impl From<WalletError> for Error {
    fn from(error: WalletError) -> Self {
        Self::local("WALLET", error.to_string())
    }
}

/// A key, and what is known of it.
pub struct Wallet {
    path: PathBuf,
    signer: Signer,
    fields: Map<String, Value>,
    /// Others could read the file until now.
    pub was_readable: bool,
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

impl Wallet {
    /// `None` when there is no file, or one that is not JSON.
    pub fn load(environment: &Environment) -> Result<Option<Self>, WalletError> {
        let path = path(environment);
        let old = path.with_file_name(OLD_FILE);
        if environment.allowance.is_none() && !path.exists() && old.is_file() {
            std::fs::rename(&old, &path).map_err(|source| FileError::Write { path: path.clone(), source })?;
        }
        let Some(bytes) = files::read(&path)?.map(Zeroizing::new) else { return Ok(None) };
        let Ok(value) = serde_json::from_slice::<Value>(&bytes) else { return Ok(None) };
        let was_readable = files::restrict(&path)?;
        Self::read(path, value, was_readable).map(Some)
    }

    fn read(path: PathBuf, value: Value, was_readable: bool) -> Result<Self, WalletError> {
        let shape = |what| WalletError::Shape { path: path.clone(), what };
        let Value::Object(fields) = value else { return Err(shape("no JSON object")) };
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        let address: Address =
            text("address").and_then(|address| address.parse().ok()).ok_or_else(|| shape("no usable address"))?;
        let digits =
            text("privateKey").and_then(|key| key.strip_prefix("0x")).ok_or_else(|| shape("no private key"))?;
        let mut key = Zeroizing::new([0; 32]);
        hex::decode_to_slice(digits, key.as_mut_slice()).map_err(|_| shape("no usable private key"))?;
        let signer = Signer::from_bytes(&key).map_err(|_| shape("no usable private key"))?;
        if signer.address() != address {
            return Err(shape("the private key is not that of the address"));
        }
        Ok(Self { path, signer, fields, was_readable })
    }

    /// A new key; never in place of another.
    pub fn create(environment: &Environment) -> Result<Self, WalletError> {
        let path = path(environment);
        let _lock = Lock::acquire(&path)?;
        if path.exists() {
            return Err(WalletError::Exists { path });
        }
        let (key, signer) = loop {
            let key = Zeroizing::new(rand::rng().random::<[u8; 32]>());
            // All but a few of 2^256 numbers are keys.
            if let Ok(signer) = Signer::from_bytes(&key) {
                break (key, signer);
            }
        };
        let created = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let fields = json!({
            "address": signer.address().to_lower(),
            "privateKey": format!("0x{}", hex::encode(key.as_slice())),
            "created": created,
            "funded": false,
        });
        let Value::Object(fields) = fields else { unreachable!("an object was written above") };
        let wallet = Self { path, signer, fields, was_readable: false };
        wallet.save()?;
        Ok(wallet)
    }

    pub fn signer(&self) -> Signer {
        self.signer.clone()
    }

    pub fn address(&self) -> Address {
        self.signer.address()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn is_funded(&self) -> bool {
        self.fields.get("funded") == Some(&Value::Bool(true))
    }

    /// `x402`, unless the file names another way of paying.
    pub fn rail(&self) -> &str {
        self.fields.get("rail").and_then(Value::as_str).unwrap_or("x402")
    }

    /// Remembers that the faucet has given.
    pub fn set_funded(&mut self) -> Result<(), WalletError> {
        let _lock = Lock::acquire(&self.path)?;
        let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        self.fields.insert("funded".to_owned(), json!(true));
        self.fields.insert("lastFaucet".to_owned(), json!(now));
        self.save()
    }

    fn save(&self) -> Result<(), WalletError> {
        let text = serde_json::to_vec_pretty(&self.fields).expect("an object can be written as JSON");
        Ok(files::write_private(&self.path, &Zeroizing::new(text))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn environment(directory: &Path) -> Environment {
        let config = directory.to_string_lossy().into_owned();
        Environment::resolve(&move |name| (name == "RUN402_CONFIG_DIR").then(|| config.clone())).expect("good")
    }

    #[test]
    fn a_wallet_is_made_once_and_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let environment = environment(directory.path());
        assert!(Wallet::load(&environment).expect("no error").is_none());
        let mut made = Wallet::create(&environment).expect("a wallet");
        made.set_funded().expect("written");
        let read = Wallet::load(&environment).expect("no error").expect("a wallet");
        assert_eq!((read.address(), read.is_funded(), read.rail()), (made.address(), true, "x402"));
        assert!(matches!(Wallet::create(&environment), Err(WalletError::Exists { .. })));
        let mode = fs::metadata(read.path()).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let key = fs::read_to_string(read.path()).expect("the file");
        let key: Value = serde_json::from_str(&key).expect("JSON");
        assert!(!format!("{read:?}").contains(key["privateKey"].as_str().expect("a key").trim_start_matches("0x")));
    }

    #[test]
    fn an_old_name_is_changed_and_open_access_is_closed() {
        let directory = tempfile::tempdir().expect("a directory");
        let environment = environment(directory.path());
        let made = Wallet::create(&environment).expect("a wallet");
        let old = directory.path().join(OLD_FILE);
        fs::rename(made.path(), &old).expect("renamed");
        fs::set_permissions(&old, fs::Permissions::from_mode(0o644)).expect("opened");
        let read = Wallet::load(&environment).expect("no error").expect("a wallet");
        assert!(read.was_readable && !old.exists());
        assert_eq!(fs::metadata(read.path()).expect("the file").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn fields_of_others_stay() {
        let directory = tempfile::tempdir().expect("a directory");
        let environment = environment(directory.path());
        let made = Wallet::create(&environment).expect("a wallet");
        let mut fields: Value = serde_json::from_slice(&fs::read(made.path()).expect("the file")).expect("JSON");
        fields["surprise"] = json!([1, 2]);
        fs::write(made.path(), fields.to_string()).expect("written");
        Wallet::load(&environment).expect("no error").expect("a wallet").set_funded().expect("written");
        let fields: Value = serde_json::from_slice(&fs::read(made.path()).expect("the file")).expect("JSON");
        assert_eq!((&fields["surprise"], &fields["funded"]), (&json!([1, 2]), &json!(true)));
    }

    #[test]
    fn what_is_no_wallet_is_told_from_no_wallet() {
        let directory = tempfile::tempdir().expect("a directory");
        let environment = environment(directory.path());
        let file = directory.path().join(FILE);
        fs::write(&file, "{not json").expect("a file");
        assert!(Wallet::load(&environment).expect("as if there were none").is_none());
        let other = format!("0x{}", "11".repeat(20));
        for shape in [
            json!([]),
            json!({}),
            json!({"address": "0x1", "privateKey": "0x2"}),
            json!({"address": other, "privateKey": format!("0x{}", "22".repeat(32))}),
            json!({"address": other, "privateKey": format!("0x{}", "00".repeat(32))}),
        ] {
            fs::write(&file, shape.to_string()).expect("a file");
            let error = Wallet::load(&environment).expect_err("the wrong shape");
            assert!(matches!(error, WalletError::Shape { .. }), "{error}");
            assert!(!error.to_string().contains(&"22".repeat(32)), "{error}");
        }
    }
}
