//! Owns where things lie on the host: workspace, target folder, cache folder, run folders.
//! Does not own what is in them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The root folder of the workspace this binary was built from.
#[must_use]
pub fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest).to_path_buf()
}

/// Cargo's target folder.
#[must_use]
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => std::path::absolute(&dir).unwrap_or_else(|_| PathBuf::from(dir)),
        None => workspace().join("target"),
    }
}

/// Where each run leaves its kernel log and artefacts: one folder per run.
#[must_use]
pub fn runs() -> PathBuf {
    target().join("lab")
}

/// `$XDG_CACHE_HOME/primeway`, by default `~/.cache/primeway`.
///
/// # Errors
/// When neither `XDG_CACHE_HOME` nor `HOME` names an absolute path.
pub fn cache() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(dir) = absolute("XDG_CACHE_HOME") {
        return Ok(dir.join("primeway"));
    }
    match absolute("HOME") {
        Some(home) => Ok(home.join(".cache/primeway")),
        None => bail!("neither XDG_CACHE_HOME nor HOME is an absolute path: set XDG_CACHE_HOME"),
    }
}

/// Creates `dir` and its parents.
///
/// # Errors
/// The system's error, with the path.
pub fn create_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))
}

/// Removes `dir` and everything below; an absent folder is fine.
///
/// # Errors
/// The system's error, with the path.
pub fn remove_dir(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            Err(err).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
