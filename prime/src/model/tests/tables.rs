//! Tables of pages as an importing driver gets them from a machine: sizes beyond an `int`, and an IOMMU that merges.

use super::*;
use crate::model::sg::{DmaDevice, Iommu, PAGE_SIZE};

fn behind_an_iommu(profile: Profile) -> Bench {
    let mut driver = Driver::vkms();
    driver.dma = DmaDevice::Iommu(Iommu::new(0x8000_0000, 1 << 40, u32::MAX));
    Bench::with(profile, Driver::vgem(), driver)
}

/// A buffer of 64 pages, which are not contiguous.
fn scattered(bench: &Bench) -> DmabufFd {
    let handle = bench.a.create_dumb(256, 256, 32).unwrap().handle;
    bench.a.handle_to_fd(handle, 0).unwrap()
}

#[test]
fn s26_one_address_per_page_behind_an_iommu_that_merges() {
    let bench = behind_an_iommu(Profile::MODERN);
    let fd = scattered(&bench);
    let importer = fd.attach(&bench.vkms).unwrap();
    let table = importer.map(Direction::Bidirectional).unwrap().unwrap();
    let (pages, addrs) = importer.page_arrays(table, 64).unwrap();
    let expected: Vec<_> = (0..64).map(|page| 0x8000_0000 + page * u64::from(PAGE_SIZE)).collect();
    assert_eq!(addrs, expected);
    assert!(pages.windows(2).all(|pair| pair[0] < pair[1]) && pages[63].0 > pages[0].0 + 63, "{pages:?}");
    assert_eq!(importer.table(table).unwrap().nents(), 1);
    importer.unmap(table, Direction::Bidirectional);
    drop((importer, fd));
    assert_eq!(bench.close(), []);
}

#[test]
fn s26_the_seed_counts_bus_addresses_by_the_cpus_lengths() {
    for (profile, wrong) in
        [(Profile::SEED, true), (Profile::SEED.without(SeedTrait::AddrArrayUnderflow), false)]
    {
        let bench = behind_an_iommu(profile);
        let fd = scattered(&bench);
        let importer = fd.attach(&bench.vkms).unwrap();
        let table = importer.map(Direction::Bidirectional).unwrap().unwrap();
        // The number of mapped segments was not noted.
        let found = importer.table(table).unwrap();
        assert_eq!(found.nents(), found.entries().len());
        let (pages, addrs) = importer.page_arrays(table, 64).unwrap();
        assert_eq!(addrs[0], 0x8000_0000);
        assert!(pages.windows(2).all(|pair| pair[0] < pair[1]), "the pages are right: {pages:?}");
        let last = addrs[63] == 0x8000_0000 + 63 * u64::from(PAGE_SIZE);
        assert_eq!(!last, wrong, "{addrs:x?}");
        let events = rows(&noted(&bench.machine));
        assert_eq!(events.contains(&("S26", EventKind::WouldOops)), wrong, "{events:?}");
        importer.unmap(table, Direction::Bidirectional);
        drop((importer, fd));
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s25_two_gib_overflow_the_seeds_int() {
    let overflow = ("S25", EventKind::WouldOops);
    for (profile, height, expected) in [
        (Profile::SEED, 8191, None),
        (Profile::SEED, 8192, Some(overflow)),
        (Profile::SEED.without(SeedTrait::PagesOverflow), 8192, None),
        (Profile::MODERN, 8192, None),
    ] {
        let bench = Bench::new(profile);
        // Rows of 256 KiB. Nothing of it is ever touched.
        let dumb = bench.a.create_dumb(65536, height, 32).unwrap();
        let fd = bench.a.handle_to_fd(dumb.handle, 0).unwrap();
        let importer = fd.attach(&bench.vkms).unwrap();
        let table = importer.map(Direction::Bidirectional).unwrap().unwrap();
        assert_eq!(importer.table(table).unwrap().size(), dumb.size, "at 2 GiB the overflow does no harm");
        assert_eq!(rows(&noted(&bench.machine)), Vec::from_iter(expected), "{profile:?} {}", dumb.size);
        importer.unmap(table, Direction::Bidirectional);
        drop((importer, fd));
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s25_no_memory_for_the_table_or_its_entries_maps_nothing() {
    for profile in BOTH {
        for nth in [1, 2] {
            let bench = Bench::new(profile.without(SeedTrait::DetachUnmappedOopses));
            let (_, fd) = bench.exported();
            let importer = fd.attach(&bench.vkms).unwrap();
            let before = bench.machine.census();
            bench.machine.fail(FaultPoint::SgAlloc, nth, Errno::NOMEM);
            assert_eq!(importer.map(Direction::Bidirectional), Err(Errno::NOMEM));
            assert_eq!(
                (bench.machine.census(), bench.machine.clear_faults()),
                (before, 0),
                "{profile:?} {nth}"
            );
            drop((importer, fd));
            assert_eq!(bench.close(), []);
        }
    }
}
