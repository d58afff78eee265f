//! What a kernel can, and the errno of what it cannot: each capability is asked for and tried.

use anyhow::{Result, ensure};
use rustix::io::Errno;

use super::{cases, expect_equal, exported, square, vgem, vkms};
use crate::contract::{CAP_ADDFB2_MODIFIERS, Contract, FB_MODIFIERS, Fb2, SyncArg, fine, refused};

cases! {
    closefb_is_there_or_an_unknown_ioctl,
    sync_files_are_there_or_enotty,
    modifiers_are_there_or_einval,
    an_empty_lease_is_a_file_of_its_own_or_einval,
}

fn closefb_is_there_or_an_unknown_ioctl(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let handle = square(side, file)?.handle;
    let id = fine("ADDFB2", side.addfb2(file, &Fb2::xrgb(handle, 64, 64)))?;
    if side.caps().closefb {
        return fine("CLOSEFB", side.closefb(file, id, 0));
    }
    refused("CLOSEFB", side.closefb(file, id, 0), Errno::INVAL)?;
    refused("CLOSEFB of nothing", side.closefb(file, 4711, 0), Errno::INVAL)?;
    fine("RMFB, the way without it", side.rmfb(file, id))
}

fn sync_files_are_there_or_enotty(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (_, fd) = exported(side, file)?;
    if side.caps().sync_files {
        let sync = fine("EXPORT_SYNC_FILE", side.export_sync_file(fd, 3))?;
        return fine("IMPORT_SYNC_FILE", side.import_sync_file(fd, SyncArg::File(sync), 3));
    }
    for flags in [0, 1, 3, u32::MAX] {
        refused("EXPORT_SYNC_FILE", side.export_sync_file(fd, flags), Errno::NOTTY)?;
        refused("IMPORT_SYNC_FILE", side.import_sync_file(fd, SyncArg::Bad, flags), Errno::NOTTY)?;
    }
    // As with any number it does not know.
    refused("an unknown ioctl", side.unknown_ioctl(fd), Errno::NOTTY)
}

fn modifiers_are_there_or_einval(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let there = side.caps().modifiers;
    let cap = fine("GET_CAP", side.get_cap(file, CAP_ADDFB2_MODIFIERS))?;
    expect_equal("CAP_ADDFB2_MODIFIERS", cap, u64::from(there))?;
    let handle = square(side, file)?.handle;
    let request = Fb2 { flags: FB_MODIFIERS, ..Fb2::xrgb(handle, 64, 64) };
    if !there {
        refused("ADDFB2 with the flag", side.addfb2(file, &request), Errno::INVAL)?;
    }
    let id =
        fine("ADDFB2", side.addfb2(file, &Fb2 { flags: if there { FB_MODIFIERS } else { 0 }, ..request }))?;
    let told = fine("GETFB2", side.getfb2(file, id))?;
    expect_equal("GETFB2's flags", told.flags, if there { FB_MODIFIERS } else { 0 })
}

fn an_empty_lease_is_a_file_of_its_own_or_einval(side: &mut dyn Contract) -> Result<()> {
    let master = vkms(side)?;
    if !side.caps().empty_lease {
        return refused("CREATE_LEASE of nothing", side.empty_lease(master), Errno::INVAL);
    }
    let lease = fine("CREATE_LEASE of nothing", side.empty_lease(master))?;
    let handle = square(side, master)?.handle;
    refused("the master's handle", side.handle_to_fd(lease, handle, 0), Errno::NOENT)?;
    expect_equal("its first handle", square(side, lease)?.handle, 1)?;
    let id = fine("ADDFB2", side.addfb2(lease, &Fb2::xrgb(1, 64, 64)))?;
    refused("RMFB by the master", side.rmfb(master, id), Errno::NOENT)?;
    fine("DROP_MASTER", side.set_master(master, false))?;
    refused("a lease without master", side.empty_lease(master), Errno::ACCESS)?;
    // The lease goes on without it.
    ensure!(fine("GETFB2", side.getfb2(lease, id))?.handles[0] == 2, "no handle");
    Ok(())
}
