//! Owns the archive that the emulated guest boots from: kernel modules in the order they need, and process 1 with its
//! libraries. Does not own where the kernel comes from, nor what process 1 does (see `qemu`, `guest`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Folder of the modules in the archive; their names sort in the order of loading.
pub const MODULES: &str = "/modules";

const FOLDER: u32 = 0o40_755;
const PROGRAM: u32 = 0o100_755;
const PLAIN: u32 = 0o100_644;

/// An archive in cpio's "newc" format, which the kernel unpacks; several may follow each other.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    count: u32,
    folders: BTreeSet<PathBuf>,
}

impl Archive {
    /// Adds a file that can be run, with the folders above it.
    pub fn program(&mut self, path: &Path, bytes: &[u8]) {
        self.file(path, PROGRAM, bytes);
    }

    fn file(&mut self, path: &Path, mode: u32, bytes: &[u8]) {
        let above: Vec<PathBuf> =
            path.ancestors().skip(1).filter(|folder| folder.parent().is_some()).map(Path::to_owned).collect();
        for folder in above.into_iter().rev() {
            if self.folders.insert(folder.clone()) {
                self.entry(&folder.to_string_lossy(), FOLDER, &[]);
            }
        }
        self.entry(&path.to_string_lossy(), mode, bytes);
    }

    fn entry(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        self.count += 1;
        let name = name.trim_start_matches('/');
        // Magic; inode, mode, user, group, links, time, size, four device numbers, length of the name, checksum.
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let fields = [self.count, mode, 0, 0, 1, 0, len, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        fields.iter().for_each(|field| self.bytes.extend(format!("{field:08x}").bytes()));
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The finished archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

/// An archive of `wanted` modules and of all that they depend on, from a folder as Debian's packages have it.
///
/// # Errors
/// When one is missing or cannot be unpacked.
pub fn modules(folder: &Path, wanted: &[&str]) -> Result<Vec<u8>> {
    let mut found = BTreeMap::new();
    find(folder, &mut found)?;
    let mut order = Vec::new();
    for name in wanted {
        load_after_dependencies(name, &found, &mut order)?;
    }
    let mut archive = Archive::default();
    for (index, (name, bytes)) in order.iter().enumerate() {
        archive.file(&Path::new(MODULES).join(format!("{index:03}-{name}.ko")), PLAIN, bytes);
    }
    Ok(archive.finish())
}

/// A module's name has underscores, its file's may have dashes.
fn find(folder: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            find(&path, found)?;
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            found.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn load_after_dependencies(
    name: &str,
    found: &BTreeMap<String, PathBuf>,
    order: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    if order.iter().any(|(known, _)| known == name) {
        return Ok(());
    }
    let path = found.get(name).with_context(|| format!("the kernel has no module {name}"))?;
    let bytes = unpacked(path)?;
    for dependency in dependencies(&bytes) {
        load_after_dependencies(&dependency, found, order)?;
    }
    order.push((name.to_owned(), bytes));
    Ok(())
}

fn unpacked(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => bail!("{} is packed in an unknown way", path.display()),
    };
    let output = Command::new(program).arg("-dc").arg(path).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} cannot unpack {}", path.display());
    }
    Ok(output.stdout)
}

/// From the section .modinfo: texts `name=value`, each with a zero behind it.
fn dependencies(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(at) = module.windows(FIELD.len()).position(|window| window == FIELD) else { return Vec::new() };
    let value = module[at + FIELD.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value).replace('-', "_");
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// An archive of the running program as `/init`, with the libraries that it has loaded.
///
/// # Errors
/// When one of them cannot be read.
pub fn own_program() -> Result<Vec<u8>> {
    let maps = fs::read_to_string("/proc/self/maps").context("cannot read the list of libraries")?;
    let own = fs::read_link("/proc/self/exe").context("cannot find the lab's own binary")?;
    let mut archive = Archive::default();
    // What is open counts: a build under way may have replaced the file.
    archive.program(
        Path::new("/init"),
        &fs::read("/proc/self/exe").context("cannot read the lab's own binary")?,
    );
    for library in libraries(&maps, &own) {
        let bytes = fs::read(&library).with_context(|| format!("cannot read {}", library.display()))?;
        let name = library.file_name().unwrap_or_default();
        // The linker is looked for in the first place, libraries in either.
        for folder in ["/lib64", "/lib"] {
            archive.program(&Path::new(folder).join(name), &bytes);
        }
    }
    Ok(archive.finish())
}

/// The files in a process's memory map that are neither its program nor data.
fn libraries(maps: &str, own: &Path) -> BTreeSet<PathBuf> {
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
    let is_library = |path: &&Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        *path != own && (name.ends_with(".so") || name.contains(".so."))
    };
    paths.filter(is_library).map(Path::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_folders_before_their_files_and_a_trailer() {
        let mut archive = Archive::default();
        archive.program(Path::new("/a/b/one"), b"12345");
        archive.program(Path::new("/a/two"), b"");
        let bytes = archive.finish();
        assert!(bytes.len().is_multiple_of(4));
        let mut names = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |index: usize| {
                let from = at + 6 + 8 * index;
                usize::from_str_radix(std::str::from_utf8(&bytes[from..from + 8]).unwrap(), 16).unwrap()
            };
            let (mode, size, len) = (field(1), field(6), field(11));
            let name = std::str::from_utf8(&bytes[at + 110..at + 110 + len - 1]).unwrap();
            let start = (at + 110 + len).next_multiple_of(4);
            if name == "a/b/one" {
                assert_eq!(&bytes[start..start + size], b"12345");
            }
            names.push((name.to_owned(), mode));
            at = (start + size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                break;
            }
        }
        assert_eq!(at, bytes.len());
        let expected =
            [("a", 0o40755), ("a/b", 0o40755), ("a/b/one", 0o100755), ("a/two", 0o100755), ("TRAILER!!!", 0)];
        assert_eq!(names, expected.map(|(name, mode)| (name.to_owned(), mode)));
    }

    #[test]
    fn modules_come_after_what_they_depend_on() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, depends: &str| {
            fs::write(dir.path().join(name), format!("\x7fELF\0depends={depends}\0retpoline=Y\0")).unwrap();
        };
        fs::create_dir(dir.path().join("drivers")).unwrap();
        write("drivers/virtio-gpu.ko", "drm,virtio_dma-buf");
        write("drm.ko", "");
        write("virtio_dma_buf.ko", "drm");
        let archive = modules(dir.path(), &["virtio_gpu", "drm"]).unwrap();
        let text = String::from_utf8_lossy(&archive);
        let at = |name: &str| text.find(name).unwrap();
        assert!(at("000-drm.ko") < at("001-virtio_dma_buf.ko"));
        assert!(at("001-virtio_dma_buf.ko") < at("002-virtio_gpu.ko"));
        assert!(!text.contains("003-"));
        assert!(modules(dir.path(), &["absent"]).is_err());
    }

    #[test]
    fn libraries_are_read_from_the_memory_map() {
        let maps = "55d0-55d1 r-xp 00000000 fe:00 12 /w/target/debug/lab\n\
                    7f00-7f01 r-xp 00000000 fe:00 13 /usr/lib/x86_64-linux-gnu/libc.so.6\n\
                    7f01-7f02 r--p 00000000 fe:00 13 /usr/lib/x86_64-linux-gnu/libc.so.6\n\
                    7f02-7f03 r-xp 00000000 fe:00 14 /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2\n\
                    7f03-7f04 r--p 00000000 fe:00 15 /usr/share/locale/locale-archive\n\
                    7ffd-7ffe rw-p 00000000 00:00 0 [stack]\n";
        let found = libraries(maps, Path::new("/w/target/debug/lab"));
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["ld-linux-x86-64.so.2", "libc.so.6"]);
    }
}
