//! Which DRM nodes have a GPU behind them: what sysfs and the drivers' names say, without EGL.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use super::egl::NodeFile;

/// Drivers that have a render node and nothing that draws.
const NO_GPU: [&str; 2] = ["vgem", "vkms"];

/// Render nodes with a GPU, the one of the display device first. `display` is the number (`st_rdev`) of that device.
pub(super) fn gpus(display: Option<u64>) -> Vec<PathBuf> {
    let own = display.into_iter().flat_map(|device| {
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        render_nodes(Path::new(&format!("/sys/dev/char/{major}:{minor}/device/drm")))
    });
    let mut nodes: Vec<PathBuf> = own.collect();
    for node in render_nodes(Path::new("/sys/class/drm")) {
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    nodes.retain(|node| has_gpu(node));
    nodes
}

/// The render nodes that a folder of sysfs names, in order.
fn render_nodes(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("renderD")).collect();
    names.sort_by_key(|name| (name.len(), name.clone()));
    names.into_iter().map(|name| Path::new("/dev/dri").join(name)).collect()
}

fn has_gpu(node: &Path) -> bool {
    let driver = NodeFile::open(node)
        .map_err(|err| err.to_string())
        .and_then(|file| drm_prime::device::kernel::driver_name(file.as_fd()).map_err(|err| err.to_string()));
    match driver {
        Ok(driver) => !NO_GPU.contains(&driver.as_str()),
        Err(err) => {
            tracing::info!(err, "render node passed over");
            false
        }
    }
}

/// Tells whether a node is a render node, on which nobody allocates dumb buffers.
pub(super) fn is_render_node(node: &Path) -> bool {
    // drm_drv.c: 64 minors for each type of node, render nodes being the third.
    rustix::fs::stat(node).is_ok_and(|stat| (128..192).contains(&rustix::fs::minor(stat.st_rdev)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn render_nodes_are_found_in_order() {
        let folder = std::env::temp_dir().join(format!("primeway-nodes-{}", std::process::id()));
        for name in ["renderD129", "card0", "renderD128", "renderD1000", "version"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let nodes = render_nodes(&folder);
        fs::remove_dir_all(&folder).unwrap();
        let expected = ["/dev/dri/renderD128", "/dev/dri/renderD129", "/dev/dri/renderD1000"];
        assert_eq!(nodes, expected.map(PathBuf::from));
    }

    #[test]
    fn no_device_no_gpu() {
        // 0:0 is no device.
        let of_nothing = render_nodes(Path::new("/sys/dev/char/0:0/device/drm"));
        assert!(of_nothing.is_empty(), "{of_nothing:?}");
    }
}
