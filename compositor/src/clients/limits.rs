//! How much of the compositor one client may have. Owns the numbers, their names on the command line and what they
//! mean; counting is in `usage`, acting on it in the handlers and in the parent module.

use std::fmt;

/// Quotas of one client, unless a field says otherwise.
///
/// The defaults are far above what browsers, players, games and Xwayland reach, and low enough that some dozens of
/// hostile clients together leave the compositor room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// wl_surfaces. Beyond: wl_display.no_memory.
    pub surfaces: u64,
    /// Protocol objects of any kind, looked at from time to time. Beyond: wl_display.no_memory.
    pub objects: u64,
    /// Buffer planes of dma-buf wl_buffers, each of which is an open file. Beyond: `failed`.
    pub buffers: u64,
    /// Bytes of the dma-bufs behind them, each counted once. Beyond: `failed`.
    pub bytes: u64,
    /// zwp_linux_buffer_params_v1 objects. Beyond, a new one makes no buffer: `failed`.
    pub params: u64,
    /// Buffer planes added to params objects that made no buffer yet. Beyond: `failed`.
    pub pending: u64,
    /// wl_shm_pools, and likewise wl_shm wl_buffers: either keeps a mapping. Beyond: wl_display.no_memory.
    pub pools: u64,
    /// Open files that came with no request that takes one, or with an unfinished one. Beyond: the client is
    /// disconnected.
    pub files: u64,
    /// Bytes that wait for the client to read them. Beyond: the client is disconnected.
    pub outgoing: u64,
    /// Commits held back by a fence, those behind them included. Beyond: wl_display.no_memory.
    pub commits: u64,
    /// Timelines of linux-drm-syncobj. Beyond: wl_display.no_memory.
    pub timelines: u64,
    /// Open files of the whole process, of which an eighth is kept in reserve: who holds the most is disconnected
    /// when it is touched.
    pub open_files: u64,
}

const MIB: u64 = 1 << 20;

impl Default for Limits {
    fn default() -> Self {
        Self {
            surfaces: 1024,
            objects: 65_536,
            buffers: 1024,
            bytes: 16 * 1024 * MIB,
            params: 512,
            pending: 128,
            pools: 1024,
            files: 512,
            outgoing: MIB,
            commits: 1024,
            timelines: 4096,
            open_files: u64::MAX,
        }
    }
}

/// One `--limit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitArg {
    name: &'static str,
    value: u64,
}

/// The names, in the order of the fields.
const NAMES: [&str; 12] = [
    "surfaces",
    "objects",
    "buffers",
    "bytes",
    "params",
    "pending",
    "pools",
    "files",
    "outgoing",
    "commits",
    "timelines",
    "open-files",
];

impl Limits {
    /// The defaults with changes.
    #[must_use]
    pub fn with(changes: &[LimitArg]) -> Self {
        let mut limits = Self::default();
        for change in changes {
            if let Some(field) = limits.field(change.name) {
                *field = change.value;
            }
        }
        limits
    }

    fn field(&mut self, name: &str) -> Option<&mut u64> {
        Some(match name {
            "surfaces" => &mut self.surfaces,
            "objects" => &mut self.objects,
            "buffers" => &mut self.buffers,
            "bytes" => &mut self.bytes,
            "params" => &mut self.params,
            "pending" => &mut self.pending,
            "pools" => &mut self.pools,
            "files" => &mut self.files,
            "outgoing" => &mut self.outgoing,
            "commits" => &mut self.commits,
            "timelines" => &mut self.timelines,
            "open-files" => &mut self.open_files,
            _ => return None,
        })
    }

    /// The number of open files from which on the reserve is touched.
    pub(super) fn files_before_reserve(&self) -> u64 {
        self.open_files - self.open_files / 8
    }
}

impl LimitArg {
    /// Parses `NAME=NUMBER`, with K, M or G behind the number for powers of 1024.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=NUMBER"))?;
        let name = NAMES
            .into_iter()
            .find(|known| *known == name)
            .ok_or_else(|| format!("`{name}` is none of {}", NAMES.join(", ")))?;
        let (digits, factor) = match value.char_indices().last() {
            Some((at, 'K')) => (&value[..at], 1 << 10),
            Some((at, 'M')) => (&value[..at], 1 << 20),
            Some((at, 'G')) => (&value[..at], 1 << 30),
            _ => (value, 1),
        };
        let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        let value = number.ok_or_else(|| format!("`{value}` is no number of 64 bits"))?;
        Ok(Self { name, value })
    }
}

impl fmt::Display for LimitArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_field_and_every_field_a_name() {
        let mut limits = Limits::default();
        for (number, name) in (1..).zip(NAMES) {
            *limits.field(name).unwrap() = number;
        }
        let Limits {
            surfaces,
            objects,
            buffers,
            bytes,
            params,
            pending,
            pools,
            files,
            outgoing,
            commits,
            timelines,
            open_files,
        } = limits;
        let fields = [
            surfaces, objects, buffers, bytes, params, pending, pools, files, outgoing, commits, timelines,
            open_files,
        ];
        assert_eq!(fields, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    }

    #[test]
    fn limits_are_parsed() {
        assert_eq!(LimitArg::parse("surfaces=12").unwrap().to_string(), "surfaces=12");
        assert_eq!(LimitArg::parse("bytes=2G").unwrap().value, 2 << 30);
        for bad in
            ["", "surfaces", "surfaces=", "surfaces=x", "surfaces=-1", "bytes=99999999999G", "no=1", "K"]
        {
            assert!(LimitArg::parse(bad).is_err(), "{bad}");
        }
        let limits = Limits::with(&[LimitArg::parse("outgoing=3K").unwrap()]);
        assert_eq!(limits, Limits { outgoing: 3072, ..Limits::default() });
    }
}
