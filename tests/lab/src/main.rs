//! The command `cargo lab`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use lab::packages::{self, Consent};
use lab::request::{RUN_VARIABLE, Seatd};
use lab::{bench, cache, demo, guest, kernel, layout, progress, qemu, run, sid, testing};

/// A real Linux kernel with KMS, as an ordinary process: no GPU, no /dev/dri, no KVM needed.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", version)]
struct Cli {
    /// Install missing Debian packages without asking
    #[arg(long, global = true)]
    yes: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run a command inside the lab; its output and exit status are passed on
    Exec(Exec),
    /// An interactive shell inside the lab
    Shell(Machine),
    /// Show it: real clients' dma-bufs on the display planes of a real kernel
    Demo,
    /// Run all tests: on the host, in the lab, in the sid guest
    Test(Test),
    /// Measure primeway beside other compositors with the same clients
    Bench(Bench),
    /// Only the set-up: packages and the lab kernel
    Setup,
    /// Remove the cached kernels and sid root, and all run folders
    Clean,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Guest {
    /// The host's own system
    #[default]
    Host,
    /// A Debian sid root: newer clients than the host has
    Sid,
    /// The host's own system on Debian's own kernel and an emulated PC: virtio-gpu instead of vkms, and slow
    Qemu,
}

#[derive(Debug, Args)]
struct Machine {
    /// The system inside
    #[arg(long, value_enum, default_value_t)]
    guest: Guest,
    /// A vkms device, e.g. crtcs=1,overlays=2,cursor,writeback,order=overlay+primary+cursor; may be repeated;
    /// `none` for no device
    #[arg(long, value_name = "SPEC", default_value = "default")]
    vkms: Vec<String>,
    /// The user inside
    #[arg(long, value_name = "N", default_value_t = 0)]
    uid: u32,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = run::Options::default().memory)]
    memory: u32,
    /// CPUs
    #[arg(long, value_name = "N", default_value_t = run::Options::default().cpus)]
    cpus: usize,
    /// How seatd runs
    #[arg(long, value_enum, default_value_t)]
    seatd: Seatd,
    /// Name of the run's folder under target/lab
    #[arg(long)]
    name: Option<String>,
}

#[derive(Debug, Args)]
struct Exec {
    #[command(flatten)]
    machine: Machine,
    /// End the run after this many seconds (status 124)
    #[arg(long, value_name = "S", default_value_t = 600.0)]
    timeout: f64,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, Args)]
struct Test {
    /// Only targets whose name contains this, e.g. kernel_picture
    #[arg(long, value_name = "SUBSTRING")]
    only: Option<String>,
    /// Arguments for the test binaries, e.g. a part of a case's name
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Debug, Args)]
struct Bench {
    /// What to measure: --seconds S, --only SCENARIO, --compositor NAME, --json, --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    arguments: Vec<String>,
}

impl Machine {
    fn sid(&self, consent: Consent) -> Result<Option<PathBuf>> {
        match self.guest {
            Guest::Host | Guest::Qemu => Ok(None),
            Guest::Sid => sid::ensure(consent).map(Some).map_err(sid::Unavailable::into_error),
        }
    }

    fn options(&self) -> Result<run::Options> {
        let emulated = self.guest == Guest::Qemu;
        let vkms: Vec<String> =
            self.vkms.iter().filter(|spec| *spec != "none" && !emulated).cloned().collect();
        for spec in &vkms {
            spec.parse::<lab::vkms::Spec>()?;
        }
        Ok(run::Options {
            vkms,
            uid: self.uid,
            memory: self.memory,
            cpus: self.cpus,
            seatd: self.seatd,
            name: self.name.clone(),
            ..run::Options::default()
        })
    }
}

fn main() -> ExitCode {
    if std::process::id() == 1
        && let Some(folder) = std::env::var_os(RUN_VARIABLE)
    {
        guest::main(&PathBuf::from(folder));
        return ExitCode::FAILURE;
    }
    match act(&Cli::parse()) {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
        Err(err) => {
            progress::say(&format!("{err:#}"));
            ExitCode::from(u8::try_from(run::LAB_FAILED).unwrap_or(u8::MAX))
        }
    }
}

fn act(cli: &Cli) -> Result<i32> {
    let consent = Consent::from_environment(cli.yes);
    match &cli.action {
        Action::Exec(exec) => {
            let mut options = exec.machine.options()?;
            options.command.clone_from(&exec.command);
            options.timeout = Some(Duration::try_from_secs_f64(exec.timeout).context("--timeout")?);
            options.sid = exec.machine.sid(consent)?;
            let linux = machine_of(&exec.machine, consent, &mut options)?;
            Ok(run::run(&linux, &options)?.ending.status())
        }
        Action::Shell(machine) => {
            ensure!(machine.guest != Guest::Qemu, "there is no shell in the emulated guest: use exec");
            let mut options = machine.options()?;
            options.command = vec!["/bin/bash".to_owned()];
            options.timeout = None;
            options.terminal = true;
            options.sid = machine.sid(consent)?;
            let linux = set_up(consent, &[])?;
            Ok(run::run(&linux, &options)?.ending.status())
        }
        Action::Demo => demo::run(&set_up(consent, &[packages::BUILD, packages::CLIENTS])?),
        Action::Test(test) => {
            let linux = set_up(consent, &[packages::BUILD, packages::CLIENTS])?;
            let selection = testing::Selection { only: test.only.clone(), arguments: test.arguments.clone() };
            let tally = testing::run(&linux, &selection, consent)?;
            Ok(i32::from(!tally.is_good()))
        }
        Action::Bench(bench) => {
            let linux = set_up(consent, &[packages::BUILD])?;
            bench::run(&linux, &bench.arguments, consent)
        }
        Action::Clean => {
            clean()?;
            Ok(0)
        }
        Action::Setup => {
            let linux = set_up(consent, &[])?;
            println!("{}", linux.display());
            Ok(0)
        }
    }
}

/// The kernel to boot; the emulated one needs no other.
fn machine_of(machine: &Machine, consent: Consent, options: &mut run::Options) -> Result<PathBuf> {
    if machine.guest != Guest::Qemu {
        return set_up(consent, &[]);
    }
    let image = qemu::ensure(consent)?;
    Ok(options.qemu.insert(image).kernel())
}

/// Refuses while any run, or any set-up, is under way.
fn clean() -> Result<()> {
    let _runs = run::lock_all()?;
    let cache = layout::cache()?;
    for part in ["kernel", "qemu", "sid"] {
        let dir = cache.join(part);
        let lock = cache::try_lock(&dir.join("lock"))?;
        let _lock = lock.with_context(|| format!("another run is using {}", dir.display()))?;
        if part == "sid" {
            for root in cache::entries(&dir, "").into_iter().filter(|root| root.is_dir()) {
                sid::remove(&root)?;
            }
        }
        layout::remove_dir(&dir)?;
        progress::say(&format!("removed {}", dir.display()));
    }
    layout::remove_dir(&layout::runs())?;
    progress::say(&format!("removed {}", layout::runs().display()));
    Ok(())
}

/// The packages for a run, those of `more`, and the kernel; quick when all is there.
///
/// `PRIMEWAY_LAB_KERNEL` names a kernel of one's own.
fn set_up(consent: Consent, more: &[&[&'static str]]) -> Result<PathBuf> {
    let own = std::env::var_os("PRIMEWAY_LAB_KERNEL").map(PathBuf::from);
    let ready = match own {
        Some(own) => Some(own),
        None => kernel::cached()?,
    };
    let for_kernel = if ready.is_some() { &[] } else { packages::KERNEL };
    // All in one go, so that the user is asked once.
    let wanted = packages::GUEST.iter().chain(for_kernel).chain(more.iter().copied().flatten());
    packages::ensure(wanted.copied(), consent)?;
    ready.map_or_else(kernel::ensure, Ok)
}
