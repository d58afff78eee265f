//! Scatter/gather tables: from pages to segments (S25), through a device's mapping, and back to one page or one bus
//! address each (S26, C14). Pure arithmetic: it owns no memory and knows no dma-buf; page numbers come from
//! [`super::memory`], and whoever holds a table decides when it is mapped.
//!
//! What the old C computes wrongly is computed here just as wrongly where the caller asks for the old function, and
//! told to the caller as an [`SgBug`]; the current functions have none of these.

use rustix::io::Errno;

/// log2 of the page size: pages of 4 KiB, as on every machine this crate is tried on.
pub const PAGE_SHIFT: u32 = 12;
/// Page size in bytes.
pub const PAGE_SIZE: u32 = 1 << PAGE_SHIFT;
/// Bus address of a segment that carries no mapping (`DMA_MAPPING_ERROR`, dma-mapping.h).
pub const DMA_MAPPING_ERROR: u64 = u64::MAX;
/// Scatterlist entries that one allocation of the kernel holds (`SG_MAX_SINGLE_ALLOC`, scatterlist.h: a page of them).
pub const ENTRIES_PER_ALLOCATION: usize = PAGE_SIZE as usize / 32;

/// One page of memory, named by its frame number. Frames `n` and `n + 1` are contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Page(pub u64);

impl Page {
    /// The page `count` frames further on.
    #[must_use]
    pub fn after(self, count: u64) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// Physical address of the page's first byte.
    #[must_use]
    pub fn address(self) -> u64 {
        self.0 << PAGE_SHIFT
    }
}

/// One entry of a table (`struct scatterlist`). The CPU half (`page`, `offset`, `length`) and the device half
/// (`dma_address`, `dma_length`) describe the same memory only as a whole table: once an IOMMU has merged segments, the
/// two halves of one entry have nothing to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScatterList {
    /// First page of the segment.
    pub page: Page,
    /// Bytes from the start of `page` to the start of the segment.
    pub offset: u32,
    /// Length in bytes, as the CPU sees it.
    pub length: u32,
    /// Bus address of the mapped segment with this index, [`DMA_MAPPING_ERROR`] without one.
    pub dma_address: u64,
    /// Length in bytes of the mapped segment with this index, 0 without one.
    pub dma_length: u32,
}

impl ScatterList {
    /// An entry that no device has mapped.
    #[must_use]
    pub fn new(page: Page, offset: u32, length: u32) -> Self {
        Self { page, offset, length, dma_address: DMA_MAPPING_ERROR, dma_length: 0 }
    }
}

/// A scatter/gather table (`struct sg_table`): its entries, and how many of them are to be walked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SgTable {
    /// All entries (`orig_nents` of them).
    entries: Vec<ScatterList>,
    /// `nents`: as many as `entries` until [`SgTable::map`] writes the count of mapped segments here.
    nents: usize,
}

/// Something the C allocates while it builds a table, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SgAllocation {
    /// The table's own struct.
    Table,
    /// One array of at most [`ENTRIES_PER_ALLOCATION`] entries.
    Entries,
}

/// Something the C does wrong. The result next to it is what the C would have computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SgBug {
    /// S25: the number of bytes does not fit the C's `int` and arrived as `size`.
    #[error("{pages} pages are {size:#x} bytes in an int")]
    SizeOverflow {
        /// Pages asked for.
        pages: usize,
        /// The size the C goes on with, sign-extended.
        size: u64,
    },
    /// S25: no page at all, and the C reads the first one.
    #[error("the first of no pages is read")]
    NoPages,
    /// S26: a length that is no multiple of the page size: the remaining length underflows and the walk leaves the segment.
    #[error("entry {entry} of {length} bytes is walked past its end")]
    LengthUnderflow {
        /// Index of the entry.
        entry: usize,
        /// Its length in bytes.
        length: u32,
    },
    /// S26: an entry that starts inside a page covers one more page than its length in pages.
    #[error("entry {entry} starts {offset} bytes into its page, and its last page is left out")]
    OffsetIgnored {
        /// Index of the entry.
        entry: usize,
        /// Its offset in bytes.
        offset: u32,
    },
    /// S26: CPU lengths are walked for bus addresses although the mapped segments have other lengths.
    #[error("entry {entry} is {length} bytes for the CPU and {dma_length} on the bus")]
    CpuLengthForDma {
        /// Index of the entry.
        entry: usize,
        /// CPU length in bytes.
        length: u32,
        /// Mapped length in bytes.
        dma_length: u32,
    },
    /// A `WARN_ON` of the C: the caller's array ends before the table does.
    #[error("the array of {entries} entries is too small")]
    ArrayTooSmall {
        /// Entries of the array.
        entries: usize,
    },
}

impl SgBug {
    /// The row of the checklist it belongs to.
    #[must_use]
    pub fn row(&self) -> &'static str {
        match self {
            Self::SizeOverflow { .. } | Self::NoPages => "S25",
            _ => "S26",
        }
    }

    /// Whether the C itself notices (`WARN_ON`) rather than going wrong in silence.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        matches!(self, Self::ArrayTooSmall { .. })
    }
}

/// The −1 with which the two directions of S26 answer an array that is too small: not an errno, although a caller that
/// passes it on makes `EPERM` of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("-1")]
pub struct MinusOne;

impl SgTable {
    /// Puts a table together from entries of the caller's own, none of them mapped.
    #[must_use]
    pub fn from_entries(entries: Vec<ScatterList>) -> Self {
        let nents = entries.len();
        Self { entries, nents }
    }

    /// Squashes contiguous pages into segments (`sg_alloc_table_from_pages_segment`, scatterlist.c): `size` bytes that
    /// start `offset` bytes into the first page, no segment longer than `max_segment` bytes (rounded down to pages).
    ///
    /// `allocate` is asked before each allocation, and its errno ends the call.
    ///
    /// # Errors
    /// `EINVAL` for a `max_segment` below one page, an `offset` of one page or more, and no pages; what `allocate` says.
    pub fn from_pages(
        pages: &[Page],
        offset: u32,
        size: u64,
        max_segment: u32,
        allocate: &mut dyn FnMut(SgAllocation) -> Result<(), Errno>,
    ) -> Result<Self, Errno> {
        let max_pages = (max_segment >> PAGE_SHIFT) as usize;
        if max_pages == 0 || offset >= PAGE_SIZE || pages.is_empty() {
            return Err(Errno::INVAL);
        }
        let runs =
            || pages.chunk_by(|a, b| b.0 == a.0.wrapping_add(1)).flat_map(move |run| run.chunks(max_pages));
        reserve(runs().count(), allocate)?;
        let (mut offset, mut size) = (offset, size);
        let entries = runs().map(|run| {
            let chunk = ((run.len() as u64) << PAGE_SHIFT) - u64::from(offset);
            let entry = ScatterList::new(run[0], offset, size.min(chunk) as u32);
            size = size.wrapping_sub(chunk);
            offset = 0;
            entry
        });
        Ok(Self::from_entries(entries.collect()))
    }

    /// All entries (`orig_nents`).
    #[must_use]
    pub fn entries(&self) -> &[ScatterList] {
        &self.entries
    }

    /// How many entries `nents` says: all of them, or the mapped segments after [`SgTable::map`].
    #[must_use]
    pub fn nents(&self) -> usize {
        self.nents
    }

    /// Bytes of the whole table, as the CPU sees them.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.length)).sum()
    }

    /// Maps the table for a device and returns the number of mapped segments, without noting it in the table
    /// (`dma_map_sg`: the old callers test the count for 0 and drop it). 0 is failure: nothing to map, or nothing left.
    pub fn map_sg(&mut self, device: &mut DmaDevice) -> usize {
        match device {
            DmaDevice::Direct => {
                for entry in &mut self.entries {
                    entry.dma_address = entry.page.address() + u64::from(entry.offset);
                    entry.dma_length = entry.length;
                }
                self.entries.len()
            }
            DmaDevice::Iommu(iommu) => iommu.map_sg(&mut self.entries),
        }
    }

    /// Maps the table and notes the number of mapped segments (`dma_map_sgtable`).
    ///
    /// # Errors
    /// `EINVAL` for an empty table, `ENOMEM` when the IOMMU has no addresses left.
    pub fn map(&mut self, device: &mut DmaDevice) -> Result<(), Errno> {
        if self.entries.is_empty() {
            return Err(Errno::INVAL);
        }
        match self.map_sg(device) {
            0 => Err(Errno::NOMEM),
            count => {
                self.nents = count;
                Ok(())
            }
        }
    }

    /// Forgets the mapping (`dma_unmap_sgtable`). The IOMMU's addresses are not used again.
    pub fn unmap(&mut self) {
        for entry in &mut self.entries {
            (entry.dma_address, entry.dma_length) = (DMA_MAPPING_ERROR, 0);
        }
        self.nents = self.entries.len();
    }

    /// Bytes that are contiguous on the bus from the first mapped segment on (`drm_prime_get_contiguous_size`).
    #[must_use]
    pub fn contiguous_size(&self) -> u64 {
        let mut size = 0;
        let Some(first) = self.entries.first() else { return 0 };
        for entry in self.entries.iter().take(self.nents) {
            if entry.dma_length == 0 || entry.dma_address != first.dma_address.wrapping_add(size) {
                break;
            }
            size += u64::from(entry.dma_length);
        }
        size
    }
}

/// Asks for the arrays that `entries` entries need. Each array but the last gives one entry away for the link.
fn reserve(entries: usize, allocate: &mut dyn FnMut(SgAllocation) -> Result<(), Errno>) -> Result<(), Errno> {
    let mut left = entries;
    loop {
        allocate(SgAllocation::Entries)?;
        if left <= ENTRIES_PER_ALLOCATION {
            return Ok(());
        }
        left -= ENTRIES_PER_ALLOCATION - 1;
    }
}

/// How a device reaches memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DmaDevice {
    /// Bus addresses are physical addresses.
    Direct,
    /// Bus addresses are an IOMMU's.
    Iommu(Iommu),
}

/// An IOMMU that gives one contiguous range of bus addresses to each table and merges what meets page to page
/// (iommu_dma_map_sg, dma-iommu.c). It has no segment boundary mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iommu {
    /// The next free bus address, page aligned.
    next: u64,
    /// End of the address space, page aligned.
    end: u64,
    /// Longest merged segment in bytes (`dma_get_max_seg_size`).
    max_segment: u32,
}

impl Iommu {
    /// An IOMMU with the addresses `base..end` (rounded to pages) whose device takes segments of up to `max_segment` bytes.
    /// Segments that are longer to begin with stay as they are.
    #[must_use]
    pub fn new(base: u64, end: u64, max_segment: u32) -> Self {
        Self { next: align(base), end: end & !u64::from(PAGE_SIZE - 1), max_segment }
    }

    fn map_sg(&mut self, entries: &mut [ScatterList]) -> usize {
        let whole =
            |entry: &ScatterList| align(u64::from(entry.offset % PAGE_SIZE) + u64::from(entry.length));
        let need: u64 = entries.iter().map(whole).sum();
        let Some(end) = self.next.checked_add(need).filter(|end| *end <= self.end) else {
            return 0;
        };
        let mut address = std::mem::replace(&mut self.next, end);
        for entry in &mut *entries {
            (entry.dma_address, entry.dma_length) = (DMA_MAPPING_ERROR, 0);
        }
        // `length` is the segment being filled, 0 when the next entry cannot join it.
        let (mut count, mut length) = (0, 0_u32);
        for index in 0..entries.len() {
            let entry = entries[index];
            let (inside, taken) = (entry.offset % PAGE_SIZE, whole(&entry));
            if length != 0 && inside == 0 && self.max_segment.saturating_sub(length) >= entry.length {
                length += entry.length;
            } else {
                entries[count].dma_address = address + u64::from(inside);
                length = entry.length;
                count += 1;
            }
            entries[count - 1].dma_length = length;
            address += taken;
            if u64::from(inside) + u64::from(entry.length) < taken {
                length = 0;
            }
        }
        count
    }
}

fn align(bytes: u64) -> u64 {
    bytes.saturating_add(u64::from(PAGE_SIZE - 1)) & !u64::from(PAGE_SIZE - 1)
}

/// Makes a table of a GEM object's pages (`drm_prime_pages_to_sg`). `max_mapping` is what the device maps at most in one piece
/// (`dma_max_mapping_size`), 0 for no device; like the C's parameter, it loses what lies above 32 bits.
///
/// # Errors
/// What `allocate` says (`ENOMEM`); `EINVAL` for a `max_mapping` below one page or for no pages (no GEM object is empty).
pub fn pages_to_sg(
    pages: &[Page],
    max_mapping: u64,
    allocate: &mut dyn FnMut(SgAllocation) -> Result<(), Errno>,
) -> Result<SgTable, Errno> {
    allocate(SgAllocation::Table)?;
    let max_segment = if max_mapping == 0 { u32::MAX } else { max_mapping as u32 };
    SgTable::from_pages(pages, 0, (pages.len() as u64) << PAGE_SHIFT, max_segment, allocate)
}

/// The seed's way to make a table of pages (S25): no limit on a segment, and the size computed in an `int`, which 2 GiB
/// overflow. Up to 4 GiB the wrong size is larger than all pages and does no harm; from there on it is too small, and
/// the segment in which it runs out is cut short. A segment of 4 GiB or more wraps, too.
///
/// # Errors
/// What `allocate` says (`ENOMEM`); `EINVAL` for no pages, where the C would read past the array.
pub fn pages_to_sg_seed(
    pages: &[Page],
    allocate: &mut dyn FnMut(SgAllocation) -> Result<(), Errno>,
    report: &mut dyn FnMut(SgBug),
) -> Result<SgTable, Errno> {
    allocate(SgAllocation::Table)?;
    if pages.is_empty() {
        report(SgBug::NoPages);
        return Err(Errno::INVAL);
    }
    let mut size = i64::from((pages.len() as u32).wrapping_shl(PAGE_SHIFT).cast_signed()).cast_unsigned();
    if size != (pages.len() as u64) << PAGE_SHIFT {
        report(SgBug::SizeOverflow { pages: pages.len(), size });
    }
    let runs = || pages.chunk_by(|a, b| b.0 == a.0.wrapping_add(1));
    reserve(runs().count(), allocate)?;
    let entries = runs().map(|run| {
        let chunk = u64::from((run.len() as u32).wrapping_shl(PAGE_SHIFT));
        let entry = ScatterList::new(run[0], 0, size.min(chunk) as u32);
        size = size.wrapping_sub(chunk);
        entry
    });
    Ok(SgTable::from_entries(entries.collect()))
}

/// The seed's way back (S26): one page, and one bus address if asked for, per page of CPU length of the first `nents` entries.
/// What was written before the failure stays written. Wrong in three ways, each reported once per entry: see [`SgBug`].
///
/// # Errors
/// [`MinusOne`] when an array ends before the table.
pub fn sg_to_page_addr_arrays(
    table: &SgTable,
    pages: &mut [Page],
    mut addrs: Option<&mut [u64]>,
    report: &mut dyn FnMut(SgBug),
) -> Result<(), MinusOne> {
    let max_pages = addrs.as_ref().map_or(pages.len(), |addrs| addrs.len().min(pages.len()));
    let mut index = 0;
    for (number, entry) in table.entries.iter().take(table.nents).enumerate() {
        if addrs.is_some() && entry.dma_length != entry.length {
            let (length, dma_length) = (entry.length, entry.dma_length);
            report(SgBug::CpuLengthForDma { entry: number, length, dma_length });
        }
        if entry.length % PAGE_SIZE != 0 {
            report(SgBug::LengthUnderflow { entry: number, length: entry.length });
        } else if entry.offset != 0 {
            report(SgBug::OffsetIgnored { entry: number, offset: entry.offset });
        }
        let (mut length, mut page, mut address) = (entry.length, entry.page, entry.dma_address);
        while length > 0 {
            if index >= max_pages {
                report(SgBug::ArrayTooSmall { entries: max_pages });
                return Err(MinusOne);
            }
            pages[index] = page;
            if let Some(addrs) = &mut addrs {
                addrs[index] = address;
            }
            page = page.after(1);
            address = address.wrapping_add(u64::from(PAGE_SIZE));
            length = length.wrapping_sub(PAGE_SIZE);
            index += 1;
        }
    }
    Ok(())
}

/// The pages of a table, one by one (`drm_prime_sg_to_page_array`): by CPU lengths, over all entries, offsets included.
/// What was written before the failure stays written.
///
/// # Errors
/// [`MinusOne`], with a warning, when the array ends before the table (C14: still no errno).
pub fn sg_to_page_array(
    table: &SgTable,
    pages: &mut [Page],
    report: &mut dyn FnMut(SgBug),
) -> Result<(), MinusOne> {
    let found = table
        .entries
        .iter()
        .flat_map(|entry| (0..pages_of(entry.offset, entry.length)).map(|number| entry.page.after(number)));
    fill(found, pages, report)
}

/// The bus address of each page of a table (`drm_prime_sg_to_dma_addr_array`): by mapped lengths, over the mapped segments.
/// What was written before the failure stays written.
///
/// # Errors
/// [`MinusOne`], with a warning, when the array ends before the table (C14: still no errno).
pub fn sg_to_dma_addr_array(
    table: &SgTable,
    addrs: &mut [u64],
    report: &mut dyn FnMut(SgBug),
) -> Result<(), MinusOne> {
    // The kernel's iterator takes the offset of the entry whose index the mapped segment has, merged or not.
    let found = table.entries.iter().take(table.nents).flat_map(|entry| {
        (0..pages_of(entry.offset, entry.dma_length))
            .map(|number| entry.dma_address.wrapping_add(number << PAGE_SHIFT))
    });
    fill(found, addrs, report)
}

/// Pages that `length` bytes touch which start `offset` bytes into the first.
fn pages_of(offset: u32, length: u32) -> u64 {
    align(u64::from(offset) + u64::from(length)) >> PAGE_SHIFT
}

fn fill<T>(
    mut found: impl Iterator<Item = T>,
    array: &mut [T],
    report: &mut dyn FnMut(SgBug),
) -> Result<(), MinusOne> {
    let entries = array.len();
    let mut slots = array.iter_mut();
    found.try_for_each(|item| {
        let Some(slot) = slots.next() else {
            report(SgBug::ArrayTooSmall { entries });
            return Err(MinusOne);
        };
        *slot = item;
        Ok(())
    })
}

#[cfg(test)]
mod tests;
