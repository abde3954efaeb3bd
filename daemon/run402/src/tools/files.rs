//! What the names of files mean, for tools that put or get some.

use crate::deploy::walk::Root;
use crate::error::Error;
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::pin::Pin;

/// What comes of writing.
pub type Written<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;

/// The files of whoever calls a tool.
pub trait Files: std::fmt::Debug + Send + Sync {
    /// An open directory, and where in it the file or directory of this name is. Blocking: opens a directory.
    fn locate(&self, name: &str) -> Result<(Root, PathBuf), Error>;

    /// Makes or replaces a file, and the directories that it is in.
    fn write<'a>(&'a self, name: &'a str, bytes: Bytes) -> Written<'a>;
}

/// There are none.
#[derive(Debug)]
pub struct NoFiles;

impl NoFiles {
    fn refused() -> Error {
        Error::local("BAD_ARGUMENT", "no project is named whose files are meant; name one with sandbox_project")
    }
}

impl Files for NoFiles {
    fn locate(&self, _: &str) -> Result<(Root, PathBuf), Error> {
        Err(Self::refused())
    }

    fn write<'a>(&'a self, _: &'a str, _: Bytes) -> Written<'a> {
        Box::pin(async { Err(Self::refused()) })
    }
}

/// All files of this computer that the process may use; names start at its current directory.
#[derive(Debug)]
pub struct LocalFiles;

fn failed(name: &str, error: &std::io::Error) -> Error {
    Error::local("LOCAL_ERROR", format!("{name}: {error}"))
}

impl Files for LocalFiles {
    /// What leads to the file is the user's own and may be links.
    fn locate(&self, name: &str) -> Result<(Root, PathBuf), Error> {
        let path = Path::new(name);
        let whole = path.canonicalize().map_err(|error| failed(name, &error))?;
        let (dir, within) = match (whole.is_dir(), whole.parent(), whole.file_name()) {
            (false, Some(dir), Some(file)) => (dir.to_owned(), PathBuf::from(file)),
            _ => (whole, PathBuf::from(".")),
        };
        Ok((Root::open(&dir)?, within))
    }

    fn write<'a>(&'a self, name: &'a str, bytes: Bytes) -> Written<'a> {
        Box::pin(async move {
            if let Some(dir) = Path::new(name).parent() {
                tokio::fs::create_dir_all(dir).await.map_err(|error| failed(name, &error))?;
            }
            tokio::fs::write(name, bytes).await.map_err(|error| failed(name, &error))
        })
    }
}
