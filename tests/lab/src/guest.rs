//! Owns the inside: process 1 of the guest. Mounts, devices, udev, seatd, the command, the end.
//! The root is an overlay over the host's files with a tmpfs upper, so that nothing written reaches the host; the run
//! folder alone is mounted for real. Does not own the kernel's start and supervision (see `run`).

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount, mount_move};

use crate::request::{self, ANSWER, Answer, REQUEST, Request, Seatd};
use crate::{initramfs, layout, qemu, sys, vkms};

/// A folder that every host has, under which the new root is put together.
const STAGE: &str = "/tmp";

/// Where the emulated guest has the run folder until its root is made.
const RUN_SHARE: &str = "/share";

/// Runs as process 1: does what the request in `run` says, leaves the answer there, powers the guest off.
///
/// Returns only if the power-off fails.
pub fn main(run: &Path) {
    let answer = match serve(run) {
        Ok(status) => Answer::Exit(status),
        Err(err) => {
            // The kernel log has it also if the answer cannot be left.
            eprintln!("lab: {err:#}");
            Answer::Failed(format!("{err:#}"))
        }
    };
    if let Err(err) = report(run, &answer) {
        eprintln!("lab: cannot leave the answer: {err:#}");
    }
    rustix::fs::sync();
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
}

/// Written under another name first, so that the host never reads half an answer.
fn report(run: &Path, answer: &Answer) -> Result<()> {
    let partial = run.join("answer.partial");
    let mut file = File::create(&partial)?;
    file.write_all(&serde_json::to_vec(answer)?)?;
    sys::write_back(&file)?;
    drop(file);
    fs::rename(&partial, run.join(ANSWER)).context("cannot rename the answer")
}

fn serve(run: &Path) -> Result<i32> {
    let run = if is_emulated() {
        load_modules()?;
        share(qemu::RUN_TAG, Path::new(RUN_SHARE), MountFlags::empty(), "none")?;
        Path::new(RUN_SHARE)
    } else {
        run
    };
    let text = fs::read(run.join(REQUEST)).context("cannot read the request")?;
    let request: Request = serde_json::from_slice(&text)?;
    build_root(&request)?;
    mount_system()?;
    // Failures up to here leave no answer (the run folder is not writable yet): the host reports the kernel log.
    start_udev()?;
    for (index, spec) in request.vkms.iter().enumerate() {
        let device = vkms::Device::create(&format!("lab{index}"), &spec.parse()?)?;
        device.keep();
    }
    settle_udev()?;
    make_user_dirs(request.uid)?;
    start_seatd(request.seatd)?;
    run_command(&request)
}

/// Whether this is the emulated guest, which boots from an archive of its own.
fn is_emulated() -> bool {
    std::env::var_os(qemu::VARIABLE).is_some()
}

fn load_modules() -> Result<()> {
    let folder = Path::new(initramfs::MODULES);
    let names =
        fs::read_dir(folder).context("no kernel modules")?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut modules: Vec<_> = names.collect();
    modules.sort();
    for path in modules {
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        rustix::system::finit_module(&file, c"", 0)
            .with_context(|| format!("cannot load {}", path.display()))?;
    }
    Ok(())
}

/// Mounts one of the emulated guest's shares of the host's files. Each can be mounted once only.
fn share(tag: &str, at: &Path, flags: MountFlags, cache: &str) -> Result<()> {
    layout::create_dir(at)?;
    let data = CString::new(format!("trans=virtio,version=9p2000.L,msize=512000,cache={cache}"))?;
    // The driver takes its devices on in its own time; until then there is none of that name.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match mount(tag, at, "9p", flags, Some(data.as_c_str())) {
            Err(rustix::io::Errno::NOENT) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            done => return done.with_context(|| format!("cannot mount {tag} at {}", at.display())),
        }
    }
}

/// Mounts a folder of the host to be read.
fn host_folder(at: &Path, folder: &Path) -> Result<()> {
    match folder.to_str().context("a path is not UTF-8")? {
        "/" if is_emulated() => share(qemu::ROOT_TAG, at, MountFlags::RDONLY, "loose"),
        _ if is_emulated() => bail!("the emulated guest has no other root than the host's"),
        text => filesystem("hostfs", at, MountFlags::RDONLY, text),
    }
}

fn filesystem(kind: &str, at: &Path, flags: MountFlags, data: &str) -> Result<()> {
    layout::create_dir(at)?;
    let data = CString::new(data)?;
    mount(kind, at, kind, flags, Some(data.as_c_str()))
        .with_context(|| format!("cannot mount {kind} at {}", at.display()))
}

/// An overlay over the folder `lower` of the host: readable as it is, writable into memory only.
fn overlay(name: &str, lower: &Path, at: &Path) -> Result<()> {
    let stage = Path::new(STAGE).join(name);
    let (base, upper, work) = (stage.join("lower"), stage.join("upper"), stage.join("work"));
    for dir in [&upper, &work] {
        layout::create_dir(dir)?;
    }
    host_folder(&base, lower)?;
    // Without redirect_dir, renaming a folder of the lower layer is EXDEV, which not every program copes with.
    let data = format!(
        "lowerdir={},upperdir={},workdir={},redirect_dir=on",
        base.display(),
        upper.display(),
        work.display()
    );
    filesystem("overlay", at, MountFlags::empty(), &data)
}

fn build_root(request: &Request) -> Result<()> {
    filesystem("tmpfs", Path::new(STAGE), MountFlags::empty(), "mode=0755")?;
    let root = Path::new(STAGE).join("root");
    overlay("base", &request.root, &root)?;
    let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    for (index, shared) in request.shared.iter().enumerate() {
        overlay(&format!("shared{index}"), shared, &inside(shared))?;
    }
    let run = inside(&request.run);
    if is_emulated() {
        layout::create_dir(&run)?;
        mount_move(RUN_SHARE, &run).context("cannot move the run folder into place")?;
    } else {
        let folder = request.run.to_str().context("the run folder is not UTF-8")?;
        filesystem("hostfs", &run, MountFlags::empty(), folder)?;
    }
    std::env::set_current_dir(&root)?;
    mount_move(".", "/").context("cannot move the new root into place")?;
    rustix::process::chroot(".").context("cannot enter the new root")?;
    std::env::set_current_dir("/")?;
    Ok(())
}

fn mount_system() -> Result<()> {
    let none = MountFlags::empty();
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    for (kind, at, flags, data) in [
        ("proc", "/proc", safe, ""),
        ("sysfs", "/sys", safe, ""),
        ("devtmpfs", "/dev", MountFlags::NOSUID, "mode=0755"),
        ("devpts", "/dev/pts", MountFlags::NOSUID, "mode=0620,ptmxmode=0666,gid=5"),
        ("tmpfs", "/dev/shm", safe, "mode=1777"),
        ("tmpfs", "/run", safe, "mode=0755"),
        ("debugfs", "/sys/kernel/debug", none, ""),
        ("configfs", "/sys/kernel/config", none, ""),
        ("cgroup2", "/sys/fs/cgroup", safe, ""),
    ] {
        filesystem(kind, Path::new(at), flags, data)?;
    }
    for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        let _ = std::os::unix::fs::symlink(target, Path::new("/dev").join(link));
    }
    // A kernel thread that is stuck for good (21 s; 120 s emulated) ends the run, rather than failing every later step in
    // its own way.
    fs::write("/proc/sys/kernel/panic_on_rcu_stall", "1").context("cannot ask for a panic on a stall")?;
    sys::loopback_up().context("cannot bring the loopback interface up")?;
    rustix::system::sethostname(b"lab").context("cannot set the host name")
}

/// Runs a helper program to its end; its output goes to the kernel's console, so into the kernel log.
fn helper(program: &str, arguments: &[&str]) -> Result<()> {
    let status = daemon(program).args(arguments).status();
    let status = status.with_context(|| format!("cannot start {program} in the guest"))?;
    if !status.success() {
        bail!("{program} {} failed in the guest: {status}", arguments.join(" "));
    }
    Ok(())
}

/// A command of the guest's system, found where system programs are, with its output in the kernel log.
fn daemon(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::null()).stdout(console()).stderr(console());
    command
}

/// /dev/kmsg takes one line per write and puts it into the kernel log.
fn console() -> Stdio {
    File::options().write(true).open("/dev/kmsg").map_or_else(|_| Stdio::null(), Stdio::from)
}

fn start_udev() -> Result<()> {
    let daemon = ["/lib/systemd/systemd-udevd", "/usr/lib/systemd/systemd-udevd", "/sbin/udevd"];
    let found = daemon.into_iter().find(|path| Path::new(path).exists());
    helper(
        found.context("the guest has no udevd: Debian package udev")?,
        &["--daemon", "--resolve-names=early"],
    )?;
    helper("udevadm", &["trigger", "--type=subsystems", "--action=add"])?;
    helper("udevadm", &["trigger", "--type=devices", "--action=add"])
}

fn settle_udev() -> Result<()> {
    helper("udevadm", &["settle", "--timeout=30"])
}

/// XDG_RUNTIME_DIR and an empty home, so that no configuration of the host's user has a say.
fn make_user_dirs(uid: u32) -> Result<()> {
    for id in [0, 1000, uid] {
        for dir in [format!("/run/user/{id}"), format!("/run/home/{id}")] {
            layout::create_dir(Path::new(&dir))?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
            chown(&dir, Some(id), Some(id))?;
        }
    }
    Ok(())
}

/// seatd's socket is opened up to every user: the guest holds nobody else.
fn start_seatd(seatd: Seatd) -> Result<()> {
    let bound = match seatd {
        Seatd::Vt => "1",
        Seatd::Free => "0",
        Seatd::None => return Ok(()),
    };
    daemon("seatd")
        .args(["-l", "info"])
        .env("SEATD_VTBOUND", bound)
        .spawn()
        .context("cannot start seatd in the guest: Debian package seatd")?;
    let socket = Path::new("/run/seatd.sock");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !socket.exists() {
        if Instant::now() > deadline {
            bail!("seatd made no socket in 10 s");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).context("cannot open up seatd's socket")
}

fn run_command(request: &Request) -> Result<i32> {
    let (program, arguments) = request.command.split_first().context("no command")?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&request.directory).env_clear();
    command.envs(request.environment.iter().map(|(name, value)| (name, value)));
    command.env("XDG_RUNTIME_DIR", format!("/run/user/{}", request.uid));
    command.env("HOME", format!("/run/home/{}", request.uid)).env("LIBSEAT_BACKEND", "seatd");
    let mut pumps = Vec::new();
    if request.terminal {
        let line = || File::options().read(true).write(true).open("/dev/ttyS1").context("no serial line");
        command.stdin(line()?).stdout(line()?).stderr(line()?);
        sys::own_terminal(&mut command);
    } else {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    if request.uid != 0 {
        sys::as_user(&mut command, request.uid);
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(err) => return refuse(request, program, &err),
    };
    if let Some(stdout) = child.stdout.take() {
        pumps.push(pump(stdout, &request.run, "stdout")?);
    }
    if let Some(stderr) = child.stderr.take() {
        pumps.push(pump(stderr, &request.run, "stderr")?);
    }
    let pid = i32::try_from(child.id())?;
    let status = loop {
        let reaped = sys::reap().context("lost the command")?;
        if reaped.pid == pid {
            break reaped.status;
        }
    };
    // What the command left behind ends here, which also closes the pipes.
    sys::signal_everyone(libc::SIGKILL);
    for pump in pumps {
        let _ = pump.join();
    }
    Ok(status)
}

/// A shell's statuses for a command that cannot be started.
fn refuse(request: &Request, program: &str, err: &std::io::Error) -> Result<i32> {
    let mut stderr = File::options().append(true).open(request::stream(&request.run, "stderr"))?;
    writeln!(stderr, "lab: cannot start {program} in {}: {err}", request.directory.display())?;
    sys::write_back(&stderr)?;
    Ok(if err.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 })
}

/// Copies a stream of the command to its file in the run folder, where the host reads it at once.
fn pump(mut from: impl Read + Send + 'static, run: &Path, name: &str) -> Result<std::thread::JoinHandle<()>> {
    let mut file = File::options().append(true).open(request::stream(run, name))?;
    Ok(std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            if file.write_all(&buffer[..len]).and_then(|()| sys::write_back(&file)).is_err() {
                break;
            }
        }
    }))
}
