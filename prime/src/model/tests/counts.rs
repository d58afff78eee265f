//! References on dma-bufs, step by step.

use super::super::*;

#[test]
fn s34_first_export_and_imports_count_as_in_fdinfo() {
    let machine = Machine::new(Profile::MODERN);
    let (vgem, vkms) = (machine.add_device(Driver::vgem()), machine.add_device(Driver::vkms()));
    let (a, b) = (vgem.open(Node::Primary).unwrap(), vgem.open(Node::Render).unwrap());
    let (c, d) = (vkms.open(Node::Primary).unwrap(), vkms.open(Node::Primary).unwrap());
    let handle = a.create_dumb(64, 64, 32).unwrap().handle;
    let fd = a.handle_to_fd(handle, DRM_CLOEXEC).unwrap();
    assert_eq!(fd.count(), 3);
    let again = a.handle_to_fd(handle, 0).unwrap();
    assert_eq!((fd.count(), again.inode()), (4, fd.inode()));
    assert_eq!((a.fd_to_handle(FdArg::Dmabuf(&fd)), fd.count()), (Ok(handle), 4));
    let self_import = b.fd_to_handle(FdArg::Dmabuf(&fd)).unwrap();
    assert_eq!(fd.count(), 5);
    let foreign = c.fd_to_handle(FdArg::Dmabuf(&fd)).unwrap();
    assert_eq!(fd.count(), 8);
    assert_eq!((c.fd_to_handle(FdArg::Dmabuf(&fd)), fd.count()), (Ok(foreign), 8));
    let other = d.fd_to_handle(FdArg::Dmabuf(&fd)).unwrap();
    assert_eq!(fd.count(), 11);
    d.gem_close(other).unwrap();
    assert_eq!(fd.count(), 8);
    c.gem_close(foreign).unwrap();
    assert_eq!(fd.count(), 5);
    b.gem_close(self_import).unwrap();
    assert_eq!(fd.count(), 4);
    a.gem_close(handle).unwrap();
    assert_eq!(fd.count(), 2);
    drop((a, b, c, d, fd, again));
    assert_eq!((machine.census(), machine.events()), (Census::default(), vec![]));
}
