//! Owns the emulated guest: Debian's own kernel on a PC made of software, with virtio-gpu, which has what the devices of
//! the lab kernel lack (timelines), and which is slow. Getting it, caching it, and how it is started. Does not own a run
//! (see `run`), nor what happens inside (see `guest`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::archive::Archive;
use crate::cache::{Kept, Making};
use crate::packages::{self, Consent};
use crate::run::Options;
use crate::{initramfs, layout, progress};

/// The modules that process 1 loads, with what they depend on: the host's files, the overlay over them, the devices.
const MODULES: &[&str] =
    &["9p", "9pnet_virtio", "overlay", "configfs", "virtio_gpu", "vgem", "uinput", "evdev"];

/// Files of a usable cache entry.
const FILES: &[&str] = &["vmlinuz", "modules.cpio"];

const RECIPE: &str = "1";

/// Name of the share with the host's files.
pub const ROOT_TAG: &str = "root";
/// Name of the share with the run folder.
pub const RUN_TAG: &str = "run";
/// Names the environment variable (a kernel argument) that tells process 1 that it is in this guest.
pub const VARIABLE: &str = "PRIMEWAY_LAB_QEMU";

/// A kernel with its modules, ready to boot.
#[derive(Clone, Debug)]
pub struct Image {
    entry: PathBuf,
}

impl Image {
    /// The kernel itself.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.entry.join("vmlinuz")
    }

    /// The emulator's command for a run in `folder`, with `arguments` for the kernel.
    ///
    /// # Errors
    /// When the archive to boot from cannot be written.
    pub fn command(&self, options: &Options, folder: &Path, arguments: &str) -> Result<Command> {
        let initramfs = folder.join("initramfs");
        let mut bytes = fs::read(self.entry.join("modules.cpio")).context("cannot read the modules")?;
        bytes.extend(initramfs::own_program()?);
        fs::write(&initramfs, bytes).with_context(|| format!("cannot write {}", initramfs.display()))?;
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "stdio",
        ]);
        // No hardware virtualisation, even where there seems to be some: it fails in many containers, and late.
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max"]);
        command.arg("-m").arg(options.memory.to_string()).arg("-smp").arg(options.cpus.to_string());
        command.args(["-device", "virtio-gpu-pci,xres=640,yres=480"]);
        for (tag, path, mode) in
            [(ROOT_TAG, Path::new("/"), "readonly=on"), (RUN_TAG, folder, "readonly=off")]
        {
            let share = format!(
                "local,id={tag},path={},security_model=none,multidevs=remap,{mode}",
                path.display().to_string().replace(',', ",,")
            );
            command.arg("-fsdev").arg(share);
            command.arg("-device").arg(format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
        }
        command.arg("-kernel").arg(self.kernel()).arg("-initrd").arg(initramfs);
        command.arg("-append").arg(format!(
            "console=ttyS0 panic=-1 mitigations=off rcupdate.rcu_cpu_stall_timeout=120 {VARIABLE}=1 {arguments}"
        ));
        Ok(command)
    }
}

/// Returns the image, getting emulator and kernel first where they are missing.
///
/// # Errors
/// When a package cannot be had.
pub fn ensure(consent: Consent) -> Result<Image> {
    packages::ensure(packages::QEMU.iter().chain(packages::GUEST).copied(), consent)?;
    let recipe = format!("{RECIPE}\n{}", MODULES.join("\n"));
    let kept = Kept::new(layout::cache()?.join("qemu"), &recipe, FILES);
    let entry = kept.find_or_make("another run is getting the emulated kernel; waiting for it", get)?;
    Ok(Image { entry })
}

fn get(Making { work, entry, log }: &Making) -> Result<String> {
    progress::say("getting Debian's own kernel for the emulated guest, once: about 125 MB");
    let archive = Archive::open(&work.join("apt"), log)?;
    let (packages, version) = archive.newest_kernel_image()?;
    let root = work.join("package");
    for package in &packages {
        let deb = archive.download(package, &work.join("deb"))?;
        let mut extract = Command::new("dpkg-deb");
        progress::run(&format!("unpacking {package}"), extract.arg("-x").arg(&deb).arg(&root), log)?;
    }
    let kernel = find_kernel(&root).with_context(|| format!("no kernel in {}", packages.join(", ")))?;
    fs::copy(kernel, entry.join("vmlinuz")).context("cannot copy the kernel")?;
    fs::write(entry.join("modules.cpio"), initramfs::modules(&root, MODULES)?)?;
    Ok(version)
}

/// In /boot, or beside its modules.
fn find_kernel(root: &Path) -> Option<PathBuf> {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")) {
                return Some(path);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_found_in_either_place() {
        for place in ["boot/vmlinuz-7.2.13-amd64", "usr/lib/modules/7.2.13-amd64/vmlinuz"] {
            let dir = tempfile::tempdir().unwrap();
            assert_eq!(find_kernel(dir.path()), None);
            let path = dir.path().join(place);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "kernel").unwrap();
            assert_eq!(find_kernel(dir.path()), Some(path));
        }
    }

    #[test]
    fn the_emulator_is_told_of_the_run() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("modules.cpio"), "").unwrap();
        let image = Image { entry: dir.path().to_owned() };
        let folder = dir.path().join("a,b");
        fs::create_dir(&folder).unwrap();
        let options = Options { memory: 1234, cpus: 2, ..Options::default() };
        let command = image.command(&options, &folder, "X=y").unwrap();
        let words: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let after = |option: &str| {
            let places = words.iter().enumerate().filter(|(_, word)| *word == option);
            places.map(|(at, _)| words[at + 1].clone()).collect::<Vec<_>>()
        };
        assert_eq!((after("-m"), after("-smp")), (vec!["1234".to_owned()], vec!["2".to_owned()]));
        let shares = after("-fsdev");
        assert!(shares[0].contains("path=/,") && shares[0].contains("readonly=on"), "{shares:?}");
        assert!(shares[1].contains("/a,,b,") && shares[1].contains("readonly=off"), "{shares:?}");
        assert!(after("-append")[0].ends_with(" X=y"));
        assert!(fs::metadata(folder.join("initramfs")).unwrap().len() > 1 << 20);
    }
}
