//! Scatter/gather tables against a naive reference that knows one page at a time.

use proptest::prelude::*;

use super::*;

fn freely(_: SgAllocation) -> Result<(), Errno> {
    Ok(())
}

fn quietly(bug: SgBug) {
    panic!("unexpected: {bug}");
}

/// Runs `call` with a report that collects.
fn seen<T>(call: impl FnOnce(&mut dyn FnMut(SgBug)) -> T) -> (T, Vec<SgBug>) {
    let mut bugs = Vec::new();
    let result = call(&mut |bug| bugs.push(bug));
    (result, bugs)
}

fn run(first: u64, count: u64) -> impl Iterator<Item = Page> {
    (first..first + count).map(Page)
}

fn lengths(table: &SgTable) -> Vec<u32> {
    table.entries().iter().map(|entry| entry.length).collect()
}

/// Pages with contiguous runs, gaps, steps back and repeats.
fn pages() -> impl Strategy<Value = Vec<Page>> {
    let step = prop_oneof![6 => Just(1_i64), 1 => Just(0), 1 => 2..40_i64, 1 => -20..0_i64];
    (10_000..20_000_u64, prop::collection::vec(step, 0..300)).prop_map(|(first, steps)| {
        let mut at = first;
        let mut pages = vec![Page(at)];
        for step in steps {
            at = at.wrapping_add_signed(step);
            pages.push(Page(at));
        }
        pages
    })
}

/// Entries as a foreign exporter might give them: any offset and length.
fn entries(aligned: bool) -> impl Strategy<Value = Vec<ScatterList>> {
    let entry = if aligned {
        (1..1000_u64, Just(0), 1..9_u32)
            .prop_map(|(page, offset, count)| ScatterList::new(Page(page * 16), offset, count * PAGE_SIZE))
            .boxed()
    } else {
        (1..1000_u64, 0..PAGE_SIZE, 1..40_000_u32)
            .prop_map(|(page, offset, length)| ScatterList::new(Page(page * 16), offset, length))
            .boxed()
    };
    prop::collection::vec(entry, 1..40)
}

fn iommu(max_segment: u32) -> DmaDevice {
    DmaDevice::Iommu(Iommu::new(0x8000_0000, 1 << 40, max_segment))
}

/// Every byte address of the table's pages, by the CPU half: the reference that merging must not change.
fn naive_pages(entries: &[ScatterList]) -> Vec<Page> {
    let mut pages = Vec::new();
    for entry in entries {
        let first = entry.page.address() + u64::from(entry.offset);
        let last = first + u64::from(entry.length) - 1;
        pages.extend((first >> PAGE_SHIFT..=last >> PAGE_SHIFT).map(Page));
    }
    pages
}

proptest! {
    #[test]
    fn s25_segments_are_the_pages_in_order_and_as_few_as_the_limit_allows(
        pages in pages(),
        limit_pages in prop_oneof![Just(u64::MAX), 1..20_u64],
        below in 0..u64::from(PAGE_SIZE),
    ) {
        // A limit that is no page multiple counts as the page multiple below it.
        let limit = limit_pages.checked_mul(u64::from(PAGE_SIZE)).map_or(0, |bytes| bytes + below);
        let table = pages_to_sg(&pages, limit, &mut freely).unwrap();
        let mut back = Vec::new();
        let mut previous: Option<ScatterList> = None;
        for entry in table.entries() {
            prop_assert_eq!(entry.offset, 0);
            prop_assert_eq!(entry.length % PAGE_SIZE, 0);
            let count = u64::from(entry.length / PAGE_SIZE);
            prop_assert!((1..=limit_pages).contains(&count));
            if let Some(previous) = previous {
                let full = u64::from(previous.length / PAGE_SIZE) == limit_pages;
                let meets = previous.page.after(u64::from(previous.length / PAGE_SIZE)) == entry.page;
                prop_assert!(full || !meets, "two segments that could be one");
            }
            previous = Some(*entry);
            back.extend(run(entry.page.0, count));
        }
        prop_assert_eq!(table.size(), (pages.len() as u64) << PAGE_SHIFT);
        prop_assert_eq!(back, pages);
    }

    #[test]
    fn s25_the_seed_makes_the_same_table_when_nothing_limits_a_segment(pages in pages()) {
        let seed = pages_to_sg_seed(&pages, &mut freely, &mut quietly).unwrap();
        prop_assert_eq!(seed, pages_to_sg(&pages, 0, &mut freely).unwrap());
    }

    #[test]
    fn s26_pages_and_addresses_come_back(pages in pages(), spare in 0..3_usize, limit in 1..20_u64) {
        let mut table = pages_to_sg(&pages, limit << PAGE_SHIFT, &mut freely).unwrap();
        table.map(&mut DmaDevice::Direct).unwrap();
        let mut out = vec![Page(7); pages.len() + spare];
        let mut addrs = vec![7; pages.len() + spare];
        sg_to_page_addr_arrays(&table, &mut out, Some(&mut addrs), &mut quietly).unwrap();
        let mut expected = pages.clone();
        expected.extend(vec![Page(7); spare]);
        prop_assert_eq!(&out, &expected);
        let mut expected: Vec<u64> = pages.iter().map(|page| page.address()).collect();
        expected.extend(vec![7; spare]);
        prop_assert_eq!(&addrs, &expected);
    }

    #[test]
    fn s26_an_array_that_is_too_small_is_filled_and_answered_with_minus_one(
        pages in pages(), short in 1..10_usize, seed in any::<bool>(),
    ) {
        let table = pages_to_sg(&pages, 0, &mut freely).unwrap();
        let room = pages.len().saturating_sub(short);
        let mut out = vec![Page(7); room];
        let (result, bugs) = seen(|report| {
            if seed { sg_to_page_addr_arrays(&table, &mut out, None, report) } else { sg_to_page_array(&table, &mut out, report) }
        });
        prop_assert_eq!(result, Err(MinusOne));
        prop_assert_eq!(&out[..], &pages[..room]);
        prop_assert_eq!(bugs, [SgBug::ArrayTooSmall { entries: room }]);
    }

    #[test]
    fn c14_page_array_is_right_for_any_offset_and_length(entries in entries(false), iommu_limit in 0..100_000_u32) {
        let expected = naive_pages(&entries);
        let mut table = SgTable::from_entries(entries);
        // Merging changes the bus half only.
        table.map(&mut iommu(iommu_limit)).unwrap();
        let mut out = vec![Page(0); expected.len()];
        sg_to_page_array(&table, &mut out, &mut quietly).unwrap();
        prop_assert_eq!(out, expected);
    }

    #[test]
    fn c14_address_array_is_right_behind_an_iommu_that_merges(entries in entries(true), limit_pages in 0..40_u32) {
        let count: u64 = entries.iter().map(|entry| u64::from(entry.length / PAGE_SIZE)).sum();
        let mut table = SgTable::from_entries(entries);
        table.map(&mut iommu(limit_pages * PAGE_SIZE)).unwrap();
        let mut out = vec![0; usize::try_from(count).unwrap()];
        sg_to_dma_addr_array(&table, &mut out, &mut quietly).unwrap();
        // One table, one range: page after page.
        let expected: Vec<u64> = (0..count).map(|page| 0x8000_0000 + (page << PAGE_SHIFT)).collect();
        prop_assert_eq!(out, expected);
        prop_assert_eq!(table.contiguous_size(), count << PAGE_SHIFT);
        let merged: Vec<_> = table.entries()[..table.nents()].to_vec();
        prop_assert_eq!(merged.iter().map(|entry| u64::from(entry.dma_length)).sum::<u64>(), table.size());
        for pair in merged.windows(2) {
            let next = table.entries().iter().map(|entry| entry.length).max().unwrap();
            prop_assert!(pair[0].dma_length.saturating_add(next) > limit_pages * PAGE_SIZE, "could have merged");
        }
        for rest in &table.entries()[table.nents()..] {
            prop_assert_eq!((rest.dma_address, rest.dma_length), (DMA_MAPPING_ERROR, 0));
        }
    }

    #[test]
    fn mapping_keeps_every_byte_of_unaligned_segments(entries in entries(false), limit in 0..100_000_u32) {
        let mut table = SgTable::from_entries(entries);
        table.map(&mut iommu(limit)).unwrap();
        let mapped: u64 = table.entries().iter().map(|entry| u64::from(entry.dma_length)).sum();
        prop_assert_eq!(mapped, table.size());
        let mut end = 0;
        for entry in &table.entries()[..table.nents()] {
            prop_assert!(entry.dma_address >= end, "mapped segments overlap");
            end = entry.dma_address + u64::from(entry.dma_length);
        }
        // The first byte stays at its place within the page: the device sees the same offset as the CPU.
        prop_assert_eq!(table.entries()[0].dma_address % u64::from(PAGE_SIZE), u64::from(table.entries()[0].offset));
        table.unmap();
        prop_assert_eq!(table.nents(), table.entries().len());
        prop_assert_eq!(table.contiguous_size(), 0);
    }

    #[test]
    fn s26_unaligned_lengths_never_end_in_the_seed(
        page in 0..100_u64, length in 1..50_000_u32, room in 0..200_usize,
    ) {
        prop_assume!(length % PAGE_SIZE != 0);
        let table = SgTable::from_entries(vec![ScatterList::new(Page(page), 0, length)]);
        let mut out = vec![Page(u64::MAX); room];
        let (result, bugs) = seen(|report| sg_to_page_addr_arrays(&table, &mut out, None, report));
        prop_assert_eq!(result, Err(MinusOne));
        // Page after page, past the end of the segment, until the array ends.
        prop_assert_eq!(out, run(page, room as u64).collect::<Vec<_>>());
        prop_assert_eq!(bugs, [
            SgBug::LengthUnderflow { entry: 0, length }, SgBug::ArrayTooSmall { entries: room },
        ]);
    }
}

#[test]
fn s25_contiguous_pages_become_one_segment() {
    let pages: Vec<_> = run(5, 3).chain(run(20, 1)).chain(run(8, 2)).collect();
    let table = pages_to_sg(&pages, 0, &mut freely).unwrap();
    let page = PAGE_SIZE;
    assert_eq!(
        table.entries(),
        [
            ScatterList::new(Page(5), 0, 3 * page),
            ScatterList::new(Page(20), 0, page),
            ScatterList::new(Page(8), 0, 2 * page)
        ]
    );
    assert_eq!((table.nents(), table.size()), (3, 6 * u64::from(page)));
}

#[test]
fn s25_a_failed_allocation_is_the_errno() {
    let one: Vec<_> = run(5, 300).collect();
    // 300 segments take three arrays: 127 + 127 + 46, for each array but the last holds the link to the next.
    let many: Vec<_> = (0..300).map(|n| Page(2 * n)).collect();
    let some = |count: usize| many[..count].to_vec();
    for (pages, allocations) in
        [(one, 2), (some(128), 2), (some(129), 3), (some(255), 3), (some(256), 4), (many.clone(), 4)]
    {
        for seed in [false, true] {
            let attempt = |fail_at: usize| {
                let mut asked = 0;
                let mut allocate = |what| {
                    assert_eq!(what == SgAllocation::Table, asked == 0);
                    asked += 1;
                    if asked == fail_at { Err(Errno::NOMEM) } else { Ok(()) }
                };
                let result = if seed {
                    pages_to_sg_seed(&pages, &mut allocate, &mut quietly)
                } else {
                    pages_to_sg(&pages, 0, &mut allocate)
                };
                (result.map(|table| table.size()), asked)
            };
            for nth in 1..=allocations {
                assert_eq!(attempt(nth), (Err(Errno::NOMEM), nth));
            }
            assert_eq!(attempt(0), (Ok((pages.len() as u64) << PAGE_SHIFT), allocations));
        }
    }
}

#[test]
fn s25_a_limit_below_one_page_is_einval() {
    let pages: Vec<_> = run(5, 3).collect();
    let limited = |limit| pages_to_sg(&pages, limit, &mut freely).map(|table| lengths(&table));
    assert_eq!(limited(4095), Err(Errno::INVAL));
    assert_eq!(limited(4096), Ok(vec![4096; 3]));
    assert_eq!(limited(8191), Ok(vec![4096; 3]));
    assert_eq!(limited(8192), Ok(vec![8192, 4096]));
    // A limit of 4 GiB does not fit the C's parameter; SIZE_MAX, "no limit", does well enough.
    assert_eq!(limited(1 << 32), Err(Errno::INVAL));
    assert_eq!(limited(u64::MAX), Ok(vec![12288]));
    let half = SgTable::from_pages(&pages, 512, 8192, u32::MAX, &mut freely).unwrap();
    assert_eq!(half.entries(), [ScatterList::new(Page(5), 512, 8192)]);
    let mut two =
        SgTable::from_pages(&[Page(5), Page(6), Page(20)], 512, 11776, u32::MAX, &mut freely).unwrap();
    assert_eq!(two.entries(), [ScatterList::new(Page(5), 512, 7680), ScatterList::new(Page(20), 0, 4096)]);
    // The device sees the same bytes, the first of them inside of its page.
    two.map(&mut DmaDevice::Direct).unwrap();
    let mapped = two.entries().iter().map(|entry| (entry.dma_address, entry.dma_length));
    assert_eq!(mapped.collect::<Vec<_>>(), [(5 * 4096 + 512, 7680), (20 * 4096, 4096)]);
    assert_eq!(SgTable::from_pages(&pages, 4096, 4096, u32::MAX, &mut freely), Err(Errno::INVAL));
}

#[test]
fn s25_no_pages_are_refused() {
    assert_eq!(pages_to_sg(&[], 0, &mut freely), Err(Errno::INVAL));
    let (result, bugs) = seen(|report| pages_to_sg_seed(&[], &mut freely, report));
    assert_eq!((result, bugs), (Err(Errno::INVAL), vec![SgBug::NoPages]));
}

#[test]
fn s25_two_gib_overflow_the_int_and_do_no_harm_yet() {
    let pages: Vec<_> = run(1, 0x8_0000).collect();
    let (table, bugs) = seen(|report| pages_to_sg_seed(&pages, &mut freely, report));
    assert_eq!(lengths(&table.unwrap()), [0x8000_0000]);
    assert_eq!(bugs, [SgBug::SizeOverflow { pages: 0x8_0000, size: 0xffff_ffff_8000_0000 }]);
    // One page less is all right.
    let (_, bugs) = seen(|report| pages_to_sg_seed(&pages[1..], &mut freely, report));
    assert_eq!(bugs, []);
    assert_eq!(bugs_row(&[SgBug::NoPages]), ["S25"]);
}

fn bugs_row(bugs: &[SgBug]) -> Vec<&'static str> {
    bugs.iter().map(SgBug::row).collect()
}

#[test]
fn s25_beyond_four_gib_the_seed_cuts_a_segment_short() {
    // Three segments of 2 GiB: the int says 2 GiB, which run out in the second.
    let half = 0x8_0000;
    let pages: Vec<_> = run(1, half).chain(run(2 * half, half)).chain(run(4 * half, half)).collect();
    let (table, bugs) = seen(|report| pages_to_sg_seed(&pages, &mut freely, report));
    // 6 GiB as an int are -2 GiB: still larger than all. 5 GiB are 1 GiB.
    assert_eq!(lengths(&table.unwrap()), [0x8000_0000; 3]);
    assert_eq!(bugs, [SgBug::SizeOverflow { pages: pages.len(), size: 0xffff_ffff_8000_0000 }]);
    let five = &pages[..0x14_0000];
    let (table, bugs) = seen(|report| pages_to_sg_seed(five, &mut freely, report));
    assert_eq!(lengths(&table.unwrap()), [0x4000_0000, 0x8000_0000, 0x4000_0000]);
    assert_eq!(bugs, [SgBug::SizeOverflow { pages: five.len(), size: 0x4000_0000 }]);
    let fixed = pages_to_sg(five, 0, &mut freely).unwrap();
    assert_eq!(lengths(&fixed), [0x8000_0000, 0x8000_0000, 0x4000_0000]);
}

#[test]
fn s25_a_segment_of_four_gib_is_split_now_and_was_lost_then() {
    let pages: Vec<_> = run(1, 0x10_0000).collect();
    let (table, bugs) = seen(|report| pages_to_sg_seed(&pages, &mut freely, report));
    assert_eq!(lengths(&table.unwrap()), [0]);
    assert_eq!(bugs, [SgBug::SizeOverflow { pages: 0x10_0000, size: 0 }]);
    assert_eq!(lengths(&pages_to_sg(&pages, 0, &mut freely).unwrap()), [0xffff_f000, 4096]);
}

#[test]
fn s26_cpu_lengths_for_bus_addresses_are_wrong_once_segments_merged() {
    let pages: Vec<_> = run(5, 1).chain(run(20, 2)).chain(run(40, 1)).collect();
    let page = u64::from(PAGE_SIZE);
    let mut table = pages_to_sg(&pages, 0, &mut freely).unwrap();
    // The seed drops the count of dma_map_sg, so nents stays that of the CPU half.
    assert_eq!(table.map_sg(&mut iommu(u32::MAX)), 1);
    assert_eq!(table.nents(), 3);
    let (mut out, mut addrs) = (vec![Page(0); 4], vec![0; 4]);
    let (result, bugs) = seen(|report| sg_to_page_addr_arrays(&table, &mut out, Some(&mut addrs), report));
    assert_eq!((result, out), (Ok(()), pages.clone()));
    // One address is right; then what stands for "no mapping" is counted on from.
    assert_eq!(addrs, [0x8000_0000, u64::MAX, page - 1, u64::MAX]);
    assert_eq!(bugs.len(), 3);
    assert_eq!(bugs[0], SgBug::CpuLengthForDma { entry: 0, length: 4096, dma_length: 4 * 4096 });
    assert!(bugs.iter().all(|bug| bug.row() == "S26" && !bug.is_warning()));
    // With the count noted, it is the pages that come short instead.
    table.map(&mut iommu(u32::MAX)).unwrap();
    let mut out = vec![Page(0); 4];
    let (result, _) = seen(|report| sg_to_page_addr_arrays(&table, &mut out, Some(&mut addrs), report));
    assert_eq!((result, &out[..]), (Ok(()), &[Page(5), Page(0), Page(0), Page(0)][..]));
    sg_to_dma_addr_array(&table, &mut addrs, &mut quietly).unwrap();
    assert_eq!(addrs, [0, 1, 2, 3].map(|n| 0x8000_0000 + n * page));
    sg_to_page_array(&table, &mut out, &mut quietly).unwrap();
    assert_eq!(out, pages);
}

#[test]
fn s26_without_addresses_the_seed_does_not_look_at_the_mapping() {
    let table = pages_to_sg(&run(5, 2).collect::<Vec<_>>(), 0, &mut freely).unwrap();
    let mut out = [Page(0); 2];
    sg_to_page_addr_arrays(&table, &mut out, None, &mut quietly).unwrap();
    assert_eq!(out, [Page(5), Page(6)]);
}

#[test]
fn s26_an_offset_costs_the_seed_a_page() {
    let table = SgTable::from_entries(vec![ScatterList::new(Page(5), 512, 2 * PAGE_SIZE)]);
    let mut out = [Page(0); 3];
    let (result, bugs) = seen(|report| sg_to_page_addr_arrays(&table, &mut out, None, report));
    assert_eq!((result, out), (Ok(()), [Page(5), Page(6), Page(0)]));
    assert_eq!(bugs, [SgBug::OffsetIgnored { entry: 0, offset: 512 }]);
    sg_to_page_array(&table, &mut out, &mut quietly).unwrap();
    assert_eq!(out, [Page(5), Page(6), Page(7)]);
}

#[test]
fn c14_address_array_overflow_is_still_minus_one() {
    let mut table = pages_to_sg(&run(5, 3).collect::<Vec<_>>(), 0, &mut freely).unwrap();
    table.map(&mut DmaDevice::Direct).unwrap();
    let mut addrs = [0; 2];
    let (result, bugs) = seen(|report| sg_to_dma_addr_array(&table, &mut addrs, report));
    assert_eq!(result, Err(MinusOne));
    assert_eq!(addrs, [5 << PAGE_SHIFT, 6 << PAGE_SHIFT]);
    assert!(bugs == [SgBug::ArrayTooSmall { entries: 2 }] && bugs[0].is_warning());
}

#[test]
fn an_iommu_merges_only_what_meets_page_to_page() {
    let entries = [(5, 0, 4096), (9, 0, 100), (20, 0, 4096), (30, 64, 4032), (40, 0, 4096)];
    let entries = entries.map(|(page, offset, length)| ScatterList::new(Page(page), offset, length));
    let mut table = SgTable::from_entries(entries.to_vec());
    table.map(&mut iommu(u32::MAX)).unwrap();
    let mapped =
        table.entries()[..table.nents()].iter().map(|it| (it.dma_address - 0x8000_0000, it.dma_length));
    // The second ends within its page, the fourth starts within one and ends with it.
    assert_eq!(mapped.collect::<Vec<_>>(), [(0, 4196), (0x2000, 4096), (0x3040, 8128)]);
}

#[test]
fn contiguous_on_the_bus_ends_at_the_first_gap() {
    let pages: Vec<_> = run(5, 2).chain(run(20, 3)).collect();
    let mut table = pages_to_sg(&pages, 0, &mut freely).unwrap();
    assert_eq!(table.contiguous_size(), 0);
    table.map(&mut DmaDevice::Direct).unwrap();
    assert_eq!(table.contiguous_size(), 2 * 4096);
    table.map(&mut iommu(u32::MAX)).unwrap();
    assert_eq!(table.contiguous_size(), 5 * 4096);
    // Split by a limit, and contiguous all the same.
    let mut split = pages_to_sg(&pages, 4096, &mut freely).unwrap();
    split.map(&mut iommu(4096)).unwrap();
    assert_eq!((split.nents(), split.contiguous_size()), (5, 5 * 4096));
    let empty = ScatterList::new(Page(7), 0, 0);
    let mut holed = SgTable::from_entries(vec![ScatterList::new(Page(5), 0, 4096), empty]);
    holed.map(&mut iommu(u32::MAX)).unwrap();
    assert_eq!((holed.nents(), holed.contiguous_size()), (1, 4096));
    assert_eq!(SgTable::default().contiguous_size(), 0);
}

#[test]
fn mapping_fails_without_segments_or_addresses() {
    assert_eq!(SgTable::default().map(&mut DmaDevice::Direct), Err(Errno::INVAL));
    let mut table = pages_to_sg(&run(5, 3).collect::<Vec<_>>(), 0, &mut freely).unwrap();
    let mut tight = DmaDevice::Iommu(Iommu::new(0x1000, 0x6000, u32::MAX));
    table.map(&mut tight).unwrap();
    let before = table.clone();
    assert_eq!(table.map(&mut tight), Err(Errno::NOMEM));
    // A failed mapping leaves the table as it was.
    assert_eq!(table, before);
    assert_eq!(before.entries()[0].dma_address, 0x1000);
}
