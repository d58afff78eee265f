//! Owns the trust in cached results: a complete-marker that is written last, checked sizes and hashes, locks, and that a
//! result is made once. Does not own what is cached.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::layout;

/// The marker's file name inside an entry.
const MARKER: &str = "complete.json";

/// Why an entry is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Distrust {
    /// The marker is missing or unreadable: the build did not reach its end.
    #[error("half-built: {MARKER} is missing or unreadable")]
    NoMarker,
    /// The marker does not list a file that the reader needs.
    #[error("{MARKER} does not list {0}")]
    NotListed(String),
    /// A listed file cannot be read.
    #[error("{path} cannot be read: {source}")]
    Unreadable {
        /// The file, relative to the entry.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// A listed file changed.
    #[error("{0} has another size or content than when it was built")]
    Changed(String),
}

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    files: Vec<Sealed>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Sealed {
    path: String,
    size: u64,
    sha256: String,
}

/// Hexadecimal SHA-256 of `bytes`.
#[must_use]
pub fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn measure(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut hasher, mut buffer, mut size) = (Sha256::new(), vec![0; 1 << 16], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((size, hex(&hasher.finalize()))),
            len => {
                hasher.update(&buffer[..len]);
                size += len as u64;
            }
        }
    }
}

/// Declares the entry complete: from now on [`check`] trusts `files` (paths relative to `entry`).
///
/// # Errors
/// When a file cannot be read or the marker cannot be written.
pub fn seal(entry: &Path, files: &[&str]) -> Result<()> {
    let sealed = files.iter().map(|path| {
        let (size, sha256) = measure(&entry.join(path)).with_context(|| format!("cannot read {path}"))?;
        Ok(Sealed { path: (*path).to_owned(), size, sha256 })
    });
    let marker = Marker { files: sealed.collect::<Result<_>>()? };
    let partial = entry.join(".complete.json.partial");
    fs::write(&partial, serde_json::to_vec_pretty(&marker)?)?;
    File::open(&partial)?.sync_all()?;
    fs::rename(&partial, entry.join(MARKER)).context("cannot write the cache marker")
}

/// Checks that the entry was completed and that every sealed file is as it was; `needed` must be among them.
///
/// # Errors
/// The reason not to use the entry.
pub fn check(entry: &Path, needed: &[&str]) -> Result<(), Distrust> {
    let text = fs::read(entry.join(MARKER)).map_err(|_| Distrust::NoMarker)?;
    let marker: Marker = serde_json::from_slice(&text).map_err(|_| Distrust::NoMarker)?;
    if let Some(path) = needed.iter().find(|path| marker.files.iter().all(|file| file.path != **path)) {
        return Err(Distrust::NotListed((*path).to_owned()));
    }
    for file in marker.files {
        match measure(&entry.join(&file.path)) {
            Ok((size, sha256)) if size == file.size && sha256 == file.sha256 => {}
            Ok(_) => return Err(Distrust::Changed(file.path)),
            Err(source) => return Err(Distrust::Unreadable { path: file.path, source }),
        }
    }
    Ok(())
}

/// What takes long to make, one entry for each of its versions.
#[derive(Debug)]
pub struct Kept {
    dir: PathBuf,
    key: String,
    files: &'static [&'static str],
}

/// Where an entry is being made.
#[derive(Debug)]
pub struct Making {
    /// Scratch space, gone afterwards.
    pub work: PathBuf,
    /// Where its files go.
    pub entry: PathBuf,
    /// What the commands said.
    pub log: PathBuf,
}

impl Kept {
    /// In `dir`, with `files`; what was made by another `recipe` is another thing.
    #[must_use]
    pub fn new(dir: PathBuf, recipe: &str, files: &'static [&'static str]) -> Self {
        let key = format!("-{}", &hash(recipe.as_bytes())[..16]);
        Self { dir, key, files }
    }

    /// The entry of the highest version, if there is one that can be trusted.
    #[must_use]
    pub fn find(&self) -> Option<PathBuf> {
        entries(&self.dir, &self.key).into_iter().find(|entry| match check(entry, self.files) {
            Ok(()) => true,
            Err(reason) => {
                crate::progress::say(&format!("cached {} is not used: {reason}", entry.display()));
                false
            }
        })
    }

    /// The same, or what `make` makes, which gives its version; says `waiting` once when another process is making it.
    ///
    /// # Errors
    /// Those of `make`, or when a file of the entry is missing or the cache cannot be written.
    pub fn find_or_make(
        &self,
        waiting: &str,
        make: impl FnOnce(&Making) -> Result<String>,
    ) -> Result<PathBuf> {
        if let Some(entry) = self.find() {
            return Ok(entry);
        }
        let _lock = lock(&self.dir.join("lock"), waiting)?;
        if let Some(entry) = self.find() {
            return Ok(entry);
        }
        let work = self.dir.join("work");
        let making = Making { entry: work.join("entry"), log: self.dir.join("build.log"), work };
        layout::remove_dir(&making.work)?;
        layout::create_dir(&making.entry)?;
        fs::write(&making.log, "")?;
        // A colon (epoch) or tilde in a version is fine in a file name, a slash cannot occur.
        let entry = self.dir.join(format!("{}{}", make(&making)?, self.key));
        seal(&making.entry, self.files)?;
        layout::remove_dir(&entry)?;
        fs::rename(&making.entry, &entry).with_context(|| format!("cannot make {}", entry.display()))?;
        layout::remove_dir(&making.work)?;
        Ok(entry)
    }
}

/// An exclusive lock between processes, held until dropped. The kernel drops it when the holder dies.
#[derive(Debug)]
pub struct Lock {
    _file: OwnedFd,
}

/// Takes the lock file `path`; says `waiting` once when another process holds it.
///
/// # Errors
/// When the file cannot be opened or locked.
pub fn lock(path: &Path, waiting: &str) -> Result<Lock> {
    match try_lock(path)? {
        Some(lock) => Ok(lock),
        None => {
            crate::progress::say(waiting);
            let file = OwnedFd::from(open_lock(path)?);
            rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
                .with_context(|| format!("cannot lock {}", path.display()))?;
            Ok(Lock { _file: file })
        }
    }
}

/// Takes the lock file `path` unless another process holds it.
///
/// # Errors
/// When the file cannot be opened or locked.
pub fn try_lock(path: &Path) -> Result<Option<Lock>> {
    let file = OwnedFd::from(open_lock(path)?);
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(err) => Err(err).with_context(|| format!("cannot lock {}", path.display())),
    }
}

fn open_lock(path: &Path) -> Result<File> {
    if let Some(dir) = path.parent() {
        layout::create_dir(dir)?;
    }
    let file = File::options().create(true).truncate(false).write(true).open(path);
    file.with_context(|| format!("cannot open {}", path.display()))
}

/// The folders in `dir` whose name ends with `suffix`, the highest version first.
#[must_use]
pub fn entries(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let names = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(suffix)).collect();
    names.sort_by_key(|name| std::cmp::Reverse(version_key(name)));
    names.into_iter().map(|name| dir.join(name)).collect()
}

/// The numbers in a version text, so that 7.10 sorts after 7.9.
#[must_use]
pub fn version_key(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("linux"), "binary").unwrap();
        fs::write(dir.path().join("config"), "options").unwrap();
        dir
    }

    #[test]
    fn a_sealed_entry_is_trusted() {
        let dir = entry();
        seal(dir.path(), &["linux", "config"]).unwrap();
        check(dir.path(), &["linux"]).unwrap();
    }

    #[test]
    fn an_entry_without_marker_is_not() {
        let dir = entry();
        assert!(matches!(check(dir.path(), &["linux"]), Err(Distrust::NoMarker)));
        fs::write(dir.path().join(MARKER), "{\"files\":[").unwrap();
        assert!(matches!(check(dir.path(), &["linux"]), Err(Distrust::NoMarker)));
    }

    #[test]
    fn a_missing_changed_or_truncated_file_is_not() {
        let dir = entry();
        seal(dir.path(), &["linux", "config"]).unwrap();
        fs::write(dir.path().join("linux"), "binarx").unwrap();
        assert!(matches!(check(dir.path(), &["linux"]), Err(Distrust::Changed(path)) if path == "linux"));
        fs::write(dir.path().join("linux"), "bin").unwrap();
        assert!(matches!(check(dir.path(), &["linux"]), Err(Distrust::Changed(_))));
        fs::remove_file(dir.path().join("linux")).unwrap();
        assert!(matches!(check(dir.path(), &["linux"]), Err(Distrust::Unreadable { .. })));
    }

    #[test]
    fn a_marker_that_lists_too_little_is_not() {
        let dir = entry();
        seal(dir.path(), &["config"]).unwrap();
        assert!(matches!(check(dir.path(), &["linux"]), Err(Distrust::NotListed(path)) if path == "linux"));
    }

    #[test]
    fn a_lock_excludes_and_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/lock");
        let held = try_lock(&path).unwrap();
        assert!(held.is_some());
        assert!(try_lock(&path).unwrap().is_none());
        drop(held);
        assert!(try_lock(&path).unwrap().is_some());
    }

    #[test]
    fn what_is_kept_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let kept = |recipe| Kept::new(dir.path().to_owned(), recipe, &["linux"]);
        let make = |making: &Making| {
            fs::write(making.work.join("scratch"), "")?;
            fs::write(making.entry.join("linux"), "binary")?;
            Ok("7.2.13-1".to_owned())
        };
        // What fails half-way is not there, and is no hindrance.
        let half = |making: &Making| make(making).and_then(|_| anyhow::bail!("half"));
        kept("a").find_or_make("", half).unwrap_err();
        kept("a").find_or_make("", |_| Ok("7.2.14-1".to_owned())).unwrap_err();
        assert_eq!(kept("a").find(), None);
        let entry = kept("a").find_or_make("", make).unwrap();
        assert_eq!(fs::read(entry.join("linux")).unwrap(), b"binary");
        assert!(!dir.path().join("work").exists());
        let again = kept("a").find_or_make("", |_| anyhow::bail!("again"));
        assert_eq!((again.unwrap(), kept("b").find()), (entry.clone(), None));
        fs::write(entry.join("linux"), "").unwrap();
        assert_eq!(kept("a").find(), None, "broken");
        assert_eq!(kept("a").find_or_make("", make).unwrap(), entry);
    }

    #[test]
    fn versions_sort_by_number() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["7.9.1-1-abc", "7.10.0-1-abc", "7.11.0-1-xyz"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let found = entries(dir.path(), "-abc");
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap()).collect();
        assert_eq!(names, ["7.10.0-1-abc", "7.9.1-1-abc"]);
    }
}
