//! How many small objects the kernel has: where a syncobj that somebody forgot to let go of can be seen.
//!
//! A syncobj has no name, no cache and no counter of its own (drm_syncobj.c: kzalloc of some 70 bytes). What it has is a
//! place in a cache of that size, and 10,000 of them stand out from what else comes and goes there. [`Oracle::new`] makes
//! sure that they do: it makes that many, and does not go on unless they are seen.

use std::fs;

use anyhow::{Context, Result, ensure};
use drm_prime::{Timeline, Timelines};

/// How many are made in a case.
pub const MANY: usize = 10_000;

/// Caches round up to these sizes; the kernel may have several of each.
const SIZES: [&str; 3] = ["64", "96", "128"];

/// Knows how the kernel's small objects look before and after.
#[derive(Debug)]
pub struct Oracle {
    before: usize,
}

impl Oracle {
    /// Tries itself out on `timelines`, and takes the number of the moment.
    pub fn new(timelines: &Timelines) -> Result<Self> {
        let before = objects()?;
        let made: Vec<Timeline> = (0..MANY).map(|_| timelines.create()).collect::<Result<_, _>>()?;
        let with = objects()?;
        drop(made);
        let after = objects()?;
        ensure!(
            with > before + MANY * 9 / 10 && after < before + MANY / 5,
            "the kernel's count does not tell {MANY} syncobjs: {before}, {with}, {after}"
        );
        Ok(Self { before: after })
    }

    /// How many more there are than at the start.
    pub fn more(&self) -> Result<usize> {
        Ok(objects()?.saturating_sub(self.before))
    }

    /// Fails if a fair part of [`MANY`] is still there.
    pub fn check(&self) -> Result<()> {
        let more = self.more()?;
        ensure!(more < MANY / 5, "{more} small objects of the kernel more than before");
        Ok(())
    }
}

/// Objects in use in the kernel's general caches for things of a syncobj's size.
fn objects() -> Result<usize> {
    // Frees what waits in the lists of each CPU, so that it does not count as used.
    for cache in fs::read_dir("/sys/kernel/slab").context("no /sys/kernel/slab")?.flatten() {
        if is_meant(&cache.file_name().to_string_lossy()) {
            let _ = fs::write(cache.path().join("shrink"), "1");
        }
    }
    let text = fs::read_to_string("/proc/slabinfo").context("no /proc/slabinfo")?;
    let fields = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let meant = fields.filter(|fields| fields.first().is_some_and(|name| is_meant(name)));
    meant.map(|fields| Ok(fields.get(1).context("a line of slabinfo")?.parse::<usize>()?)).sum()
}

/// kmalloc-96, kmalloc-rnd-07-96, kmalloc-cg-96; not dma-kmalloc and the like.
fn is_meant(cache: &str) -> bool {
    let size = cache.rsplit('-').next().unwrap_or_default();
    cache.starts_with("kmalloc-") && SIZES.contains(&size)
}
