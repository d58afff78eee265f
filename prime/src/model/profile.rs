//! [`Profile`]: which kernel a machine runs, as the set of [`SeedTrait`]s it has. It only names the differences; each is
//! acted upon where the code of that row is.

use std::fmt;

macro_rules! traits {
    ($($(#[$doc:meta])* $name:ident = $row:literal,)*) => {
        /// One way in which drm_prime.c of about Linux 3.11 differs from Linux 7.2.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum SeedTrait { $($(#[$doc])* $name,)* }

        impl SeedTrait {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The row of the crate's checklist (`S06`, `C2`) that describes it.
            #[must_use]
            pub const fn row(self) -> &'static str {
                match self { $(Self::$name => $row,)* }
            }
        }
    };
}

traits! {
    /// The object's link to its dma-buf is weak and the export takes the caller's reference over.
    WeakExportLink = "C1",
    /// Only the file that exported first gets the buffer into its cache.
    ExportSkipsCache = "C2",
    /// A failed import drops the handle's reference and leaves its number.
    AddFailureDangles = "C3",
    /// The handle is looked up before `prime.lock` is taken.
    UnlockedLookup = "C3b",
    /// The cache is a list, newest first.
    ListCache = "C4",
    /// Closing a handle removes every cache entry of its dma-buf.
    CloseByDmabuf = "C5",
    /// A handle's number is free before its cache entry is gone.
    OnePhaseDelete = "C6",
    /// `DRM_RDWR` is an invalid flag.
    CloexecOnly = "C7",
    /// GEM dma-bufs cannot be mapped.
    MmapRefused = "S13",
    /// An attachment keeps its first mapping, and refuses another direction.
    CachedMapping = "C8",
    /// Even an import of one's own buffer needs `import_sg_table`.
    SelfImportNeedsSgTable = "C9",
    /// GEM dma-bufs have the kmap entry points, all empty.
    KmapStubs = "S12",
    /// The descriptor is reserved after the handle is looked up.
    LookupBeforeFd = "C11",
    /// Framebuffers hold the object, not its handle.
    FbHoldsObjectOnly = "C12",
    /// PRIME is a feature that a driver may lack.
    PrimeIsAFeature = "C13",
    /// A failed pin leaves the attachment's private data behind.
    PinFailureLeaks = "S05",
    /// Detaching what was never mapped frees a table that is not there.
    DetachUnmappedOopses = "S06",
    /// The cache's reference is put before its entry is unlinked.
    PutBeforeUnlink = "S07",
    /// Whether a mapping is cached is looked at outside of the lock.
    MapCheckUnlocked = "S08",
    /// An exporter without the vmap callback is called all the same.
    VmapUnchecked = "S11",
    /// A null table from the exporter becomes a null object.
    NullSgtUnchecked = "S20",
    /// The length of a page array is computed in 32 bits.
    PagesOverflow = "S25",
    /// The length left of a segment is counted down by whole pages.
    AddrArrayUnderflow = "S26",
}

const _: () = assert!(SeedTrait::ALL.len() <= 32);

/// A kernel: Linux 7.2 with some [`SeedTrait`]s. The default has none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Profile(u32);

impl Profile {
    /// Linux 7.2.
    pub const MODERN: Self = Self(0);
    /// drm_prime.c as it was in about Linux 3.11.
    pub const SEED: Self = Self((1 << SeedTrait::ALL.len()) - 1);

    /// This kernel with one more trait.
    #[must_use]
    pub const fn with(self, it: SeedTrait) -> Self {
        Self(self.0 | 1 << it as u32)
    }

    /// This kernel with one trait mended.
    #[must_use]
    pub const fn without(self, it: SeedTrait) -> Self {
        Self(self.0 & !(1 << it as u32))
    }

    /// Whether it has a trait.
    #[must_use]
    pub const fn has(self, it: SeedTrait) -> bool {
        self.0 & 1 << it as u32 != 0
    }

    /// Its traits.
    pub fn traits(self) -> impl Iterator<Item = SeedTrait> {
        SeedTrait::ALL.iter().copied().filter(move |it| self.has(*it))
    }
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MODERN => f.write_str("MODERN"),
            Self::SEED => f.write_str("SEED"),
            other => f.debug_set().entries(other.traits()).finish(),
        }
    }
}
