//! What clients say of their luma and chroma (color-representation), on planes in memory and composited.

use drm_prime::scanout::YuvCaps;
use primeway::backend::headless::Headless;
use primeway_tests::palette::{Matrix, Meaning, Palette};
use primeway_tests::picture::Pattern;
use wayland_protocols::wp::color_representation::v1::client::wp_color_representation_surface_v1::{
    Coefficients, Range, WpColorRepresentationSurfaceV1,
};

use super::{OUTPUT, start};
use crate::headless_support::client::{Buffer, Client};
use crate::headless_support::{Screen, Server};

const USUAL: Meaning = Meaning { matrix: Matrix::Bt601, full: false };
const SAID: Meaning = Meaning { matrix: Matrix::Bt2020, full: true };

fn palette(client: &mut Client, format: &str) -> Buffer {
    assert_eq!(Palette::SIZE, OUTPUT);
    let mut buffer = client.dmabuf(format, OUTPUT, Pattern::Card).unwrap();
    buffer.memory.write(|format, layout, memory| Palette::Colors.draw(format, layout, memory)).unwrap();
    buffer
}

fn say(object: &WpColorRepresentationSurfaceV1, meaning: Meaning) {
    let coefficients = match meaning.matrix {
        Matrix::Bt601 => Coefficients::Bt601,
        Matrix::Bt709 => Coefficients::Bt709,
        Matrix::Bt2020 => Coefficients::Bt2020,
    };
    object.set_coefficients_and_range(coefficients, if meaning.full { Range::Full } else { Range::Limited });
}

/// The largest difference of a palette in full size from what it means, in 255ths.
fn off(screen: &Screen, bits: u32, meaning: Meaning) -> f64 {
    let mut worst: f64 = 0.0;
    for (x, y) in (0..screen.height).flat_map(|y| (0..screen.width).map(move |x| (x, y))) {
        let [r, g, b] = meaning.rgb(Palette::Colors.codes((x, y), bits), bits);
        for (got, want) in screen.at(x, y).into_iter().zip([b, g, r]) {
            worst = worst.max((f64::from(got) - want).abs());
        }
    }
    worst
}

fn assert_means(server: &Server, buffer: &Buffer, title: &str, meaning: Meaning) {
    server.settle().unwrap();
    let off = off(&server.picture().unwrap(), buffer.memory.format.bits, meaning);
    assert!(off <= 2.0, "{title}, {}: off by {off}/255", meaning.name());
    assert_eq!(server.window(title).unwrap().color, Some(meaning.name()));
}

/// From one cell to the next only what is said changes: neither a buffer nor damage comes with it.
#[test]
fn every_matrix_and_range_is_within_two_255ths_of_the_reference() {
    for scanout in [true, false] {
        for format in ["NV12", "P010", "YU12"] {
            let (server, mut client) = start();
            server.ask(move |state| state.runtime.direct_scanout = scanout).unwrap();
            let buffer = palette(&mut client, format);
            let window = client.show_window(format, &buffer).unwrap();
            assert_means(&server, &buffer, format, USUAL);
            let object = client.color(&window.surface).unwrap();
            for meaning in Meaning::ALL {
                say(&object, meaning);
                // No plane here takes three planes of samples.
                let on_plane = scanout && format != "YU12";
                assert_eq!(client.presented(&window.surface).unwrap(), on_plane, "{format}");
                assert_means(&server, &buffer, format, meaning);
            }
        }
    }
}

#[test]
fn what_was_said_comes_and_goes_with_commits() {
    for scanout in [true, false] {
        let (server, mut client) = start();
        server.ask(move |state| state.runtime.direct_scanout = scanout).unwrap();
        let buffer = palette(&mut client, "NV12");
        let window = client.show_window("nv12", &buffer).unwrap();
        let object = client.color(&window.surface).unwrap();
        say(&object, SAID);
        client.roundtrip().unwrap();
        assert_means(&server, &buffer, "nv12", USUAL);
        client.presented(&window.surface).unwrap();
        assert_means(&server, &buffer, "nv12", SAID);
        // Another buffer is taken for the same.
        let other = palette(&mut client, "NV12");
        client.present(&window.surface, &other).unwrap();
        assert_means(&server, &other, "nv12", SAID);
        object.destroy();
        client.roundtrip().unwrap();
        assert_means(&server, &other, "nv12", SAID);
        client.presented(&window.surface).unwrap();
        assert_means(&server, &other, "nv12", USUAL);
    }
}

/// A synchronized subsurface's state has its effect with its parent's commit.
#[test]
fn what_is_said_of_a_subsurface_waits_for_its_parent() {
    let (server, mut client) = start();
    let under = client.shm("XR24", OUTPUT, Pattern::Noise(1)).unwrap();
    let window = client.show_window("parent", &under).unwrap();
    let (child, _role) = client.subsurface(&window.surface).unwrap();
    let buffer = palette(&mut client, "NV12");
    client.show(&child, &buffer).unwrap();
    window.surface.commit();
    // Its parent is behind it, so that no frame of that is ever shown.
    let means = |client: &mut Client, meaning| {
        client.roundtrip().unwrap();
        server.settle().unwrap();
        off(&server.picture().unwrap(), 8, meaning) <= 2.0
    };
    assert!(means(&mut client, USUAL));
    let object = client.color(&child).unwrap();
    say(&object, SAID);
    child.commit();
    // What is set after the commit is not the parent's to take.
    say(&object, Meaning { matrix: Matrix::Bt709, full: true });
    assert!(means(&mut client, USUAL));
    window.surface.commit();
    assert!(means(&mut client, SAID));
}

/// A plane takes what it converts; what it does not is composited, and says so.
#[test]
fn a_plane_without_the_matrix_is_refused_with_it() {
    let server = Server::start_on(OUTPUT, &[], |timers| {
        let mut headless = Headless::new(timers, OUTPUT)?;
        headless.convert_only(YuvCaps::FIXED);
        Ok(headless)
    });
    let server = server.unwrap();
    let mut client = server.connect().unwrap();
    let buffer = palette(&mut client, "NV12");
    let window = client.open_window("nv12").unwrap();
    assert!(client.present(&window.surface, &buffer).unwrap(), "as all planes do by default");
    let object = client.color(&window.surface).unwrap();
    for (meaning, on_plane) in [
        (SAID, false),
        (USUAL, true),
        (Meaning { matrix: Matrix::Bt601, full: true }, false),
        (Meaning { matrix: Matrix::Bt709, full: false }, false),
    ] {
        say(&object, meaning);
        assert_eq!(client.presented(&window.surface).unwrap(), on_plane, "{}", meaning.name());
        assert_means(&server, &buffer, "nv12", meaning);
        let reason = server.window("nv12").unwrap().reason;
        let text = format!("{} range is not among the plane's colour properties", meaning.name());
        let text = text.replace(" limited", " in limited").replace(" full", " in full");
        assert_eq!(reason, (!on_plane).then_some(text));
    }
}

/// RGB has no matrix, and pixels that a surface gets later are compared with what was said before.
#[test]
fn rgb_is_left_alone() {
    let (server, mut client) = start();
    let buffer = client.dmabuf("XR24", OUTPUT, Pattern::Noise(3)).unwrap();
    let window = client.show_window("rgb", &buffer).unwrap();
    let object = client.color(&window.surface).unwrap();
    object.set_coefficients_and_range(Coefficients::Identity, Range::Full);
    assert!(client.presented(&window.surface).unwrap());
    assert_eq!(server.window("rgb").unwrap().color, None);
    super::assert_shows(&server.picture().unwrap(), (0, 0), &buffer);
    let nv12 = palette(&mut client, "NV12");
    client.attach(&window.surface, &nv12);
    window.surface.commit();
    let error = client.expect_error().unwrap();
    assert_eq!((error.interface.as_str(), error.code), ("wp_color_representation_surface_v1", 3));
}
