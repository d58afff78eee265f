//! References on dma-bufs, step by step.

use super::*;

#[test]
fn s34_modern_counts_as_in_fdinfo() {
    let bench = Bench::new(Profile::MODERN);
    let (a, c) = (&bench.a, &bench.b);
    let (b, d) = (bench.vgem.open(Node::Render).unwrap(), bench.vkms.open(Node::Primary).unwrap());
    let handle = dumb(a);
    let fd = a.handle_to_fd(handle, DRM_CLOEXEC).unwrap();
    assert_eq!(fd.count(), 3);
    let again = a.handle_to_fd(handle, 0).unwrap();
    assert_eq!((fd.count(), again.inode()), (4, fd.inode()));
    assert_eq!((import(a, &fd), fd.count()), (Ok(handle), 4));
    let own = import(&b, &fd).unwrap();
    assert_eq!(fd.count(), 5);
    let foreign = import(c, &fd).unwrap();
    assert_eq!(fd.count(), 8);
    assert_eq!((import(c, &fd), fd.count()), (Ok(foreign), 8));
    let other = import(&d, &fd).unwrap();
    assert_eq!(fd.count(), 11);
    let map = fd.map(0, 4096, memory::Access::ReadOnly).unwrap();
    assert_eq!(fd.count(), 12);
    drop(map);
    d.gem_close(other).unwrap();
    assert_eq!(fd.count(), 8);
    c.gem_close(foreign).unwrap();
    assert_eq!(fd.count(), 5);
    b.gem_close(own).unwrap();
    assert_eq!(fd.count(), 4);
    a.gem_close(handle).unwrap();
    assert_eq!(fd.count(), 2);
    drop((b, d, fd, again));
    assert_eq!(bench.close(), []);
}

#[test]
fn s34_seed_counts_two_for_an_export_and_two_for_a_foreign_import() {
    let bench = Bench::new(Profile::SEED);
    let (a, c) = (&bench.a, &bench.b);
    let b = bench.vgem.open(Node::Render).unwrap();
    let (handle, fd) = bench.exported();
    assert_eq!(fd.count(), 2);
    let again = a.handle_to_fd(handle, 0).unwrap();
    assert_eq!((fd.count(), again.inode()), (3, fd.inode()));
    let own = import(&b, &fd).unwrap();
    assert_eq!(fd.count(), 4);
    let foreign = import(c, &fd).unwrap();
    assert_eq!(fd.count(), 6);
    assert_eq!((import(c, &fd), fd.count()), (Ok(foreign), 6));
    c.gem_close(foreign).unwrap();
    assert_eq!(fd.count(), 4);
    b.gem_close(own).unwrap();
    assert_eq!(fd.count(), 3);
    a.gem_close(handle).unwrap();
    assert_eq!(fd.count(), 2);
    drop((b, fd, again));
    assert_eq!(bench.close(), []);
}

#[test]
fn s01_the_chain_goes_from_importer_to_exporter() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let (handle, fd) = bench.exported();
        let foreign = import(&bench.b, &fd).unwrap();
        drop(fd);
        bench.a.gem_close(handle).unwrap();
        // The importer's object keeps the dma-buf, the dma-buf the exporter's object.
        let census = bench.machine.census();
        assert_eq!((census.objects, census.dmabufs, census.attachments), (2, 1, 1), "{profile:?}");
        bench.b.gem_close(foreign).unwrap();
        let census = bench.machine.census();
        assert_eq!((census.objects, census.dmabufs, census.attachments), (0, 0, 0), "{profile:?}");
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s01_the_seeds_link_to_a_dmabuf_is_weak() {
    for (profile, references) in [(Profile::MODERN, 2), (Profile::SEED, 1)] {
        let bench = Bench::new(profile);
        let (_, fd) = bench.exported();
        drop(fd);
        // The file's cache holds one; the object's link counts in 7.2 only.
        assert_eq!(bench.machine.census().dmabuf_references, references, "{profile:?}");
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s02_an_entry_holds_a_reference_for_its_handle() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let (handle, fd) = bench.exported();
        assert_eq!(bench.machine.census().members, 1);
        let before = fd.count();
        bench.a.gem_close(handle).unwrap();
        assert_eq!(bench.machine.census().members, 0);
        assert_eq!(before - fd.count(), if profile == Profile::SEED { 1 } else { 2 });
        drop(fd);
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn i1_many_imports_one_close() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let (_, fd) = bench.exported();
        let handle = import(&bench.b, &fd).unwrap();
        for _ in 0..5 {
            assert_eq!(import(&bench.b, &fd), Ok(handle));
        }
        bench.b.gem_close(handle).unwrap();
        assert_eq!(bench.b.gem_close(handle), Err(Errno::INVAL));
        drop(fd);
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn i2_the_export_of_an_import_is_the_original() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let (_, fd) = bench.exported();
        let handle = import(&bench.b, &fd).unwrap();
        let back = bench.b.handle_to_fd(handle, 0).unwrap();
        assert_eq!(back.inode(), fd.inode());
        assert!(back.same_file(&fd));
        drop((fd, back));
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn i3_handle_and_descriptor_each_keep_the_dmabuf() {
    let bench = Bench::new(Profile::MODERN);
    let (handle, fd) = bench.exported();
    let inode = fd.inode();
    drop(fd);
    let fd = bench.a.handle_to_fd(handle, 0).unwrap();
    assert_eq!(fd.inode(), inode);
    bench.a.gem_close(handle).unwrap();
    let handle = import(&bench.a, &fd).unwrap();
    assert_eq!(fd.count(), 3);
    assert_eq!(bench.a.handle_to_fd(handle, 0).unwrap().inode(), inode);
    drop(fd);
    assert_eq!(bench.close(), []);
}

#[test]
fn i4_the_lowest_free_handle_is_next() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let handles = [(); 4].map(|()| dumb(&bench.a));
        assert_eq!(handles, [1, 2, 3, 4]);
        bench.a.gem_close(3).unwrap();
        bench.a.gem_close(2).unwrap();
        assert_eq!([dumb(&bench.a), dumb(&bench.a), dumb(&bench.a)], [2, 3, 5]);
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn i9_a_dmabuf_outlives_handle_and_file() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let file = bench.vgem.open(Node::Primary).unwrap();
        let handle = dumb(&file);
        let fd = file.handle_to_fd(handle, 0).unwrap();
        let twin = file.clone();
        drop(file);
        assert_eq!(fd.count(), if profile == Profile::SEED { 2 } else { 3 }, "a duplicate keeps the file");
        drop(twin);
        assert_eq!(fd.count(), 1);
        import(&bench.b, &fd).unwrap();
        drop(fd);
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn i10_inodes_are_never_reused() {
    let bench = Bench::new(Profile::MODERN);
    let mut last = 0;
    for _ in 0..100 {
        let (handle, fd) = bench.exported();
        assert!(fd.inode() > last);
        last = fd.inode();
        drop(fd);
        bench.a.gem_close(handle).unwrap();
    }
    assert_eq!(bench.close(), []);
}
