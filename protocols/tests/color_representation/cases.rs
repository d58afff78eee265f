//! What clients may do, what ends them and with which code, and that nobody else notices.

use primeway_protocols::color_representation as rules;
use primeway_protocols::color_representation::{CommitFault, Model, Representation};
use wayland_client::Proxy;
use wayland_client::protocol::wl_shm::Format;
use wayland_client::protocol::wl_surface::WlSurface;
use wayland_protocols::wp::color_representation::v1::client::{
    wp_color_representation_manager_v1::Error as ManagerError,
    wp_color_representation_surface_v1::{
        AlphaMode, ChromaLocation, Coefficients, Error, Range, WpColorRepresentationSurfaceV1,
    },
};

use super::harness::{Said, Server, TestClient};

/// A client does `bad`, which names the object that gets the error `code`; another client goes on, and no object of the
/// ended one is left.
fn refused(code: u32, bad: impl FnOnce(&TestClient) -> (&'static str, u32)) -> Server {
    let mut server = Server::new();
    let mut bystander = server.connect();
    let mut client = server.connect();
    let (interface, id) = bad(&client);
    let got = client.roundtrip(&mut server).expect_err("a protocol error");
    assert_eq!((got.code, got.object_interface.as_str(), got.object_id), (code, interface, id));
    bystander.assert_alive(&mut server);
    drop(client);
    bystander.roundtrip(&mut server).unwrap();
    assert_eq!(server.state.color.surface_objects(), 0);
    server
}

/// As [`refused`], on the object of a surface.
fn object_refused(
    error: Error,
    bad: impl FnOnce(&TestClient, &WlSurface, &WpColorRepresentationSurfaceV1),
) -> Server {
    refused(error as u32, |client| {
        let surface = client.surface();
        let object = client.object(&surface);
        bad(client, &surface, &object);
        ("wp_color_representation_surface_v1", object.id().protocol_id())
    })
}

fn pair(coefficients: rules::Coefficients, range: rules::Range) -> Representation {
    Representation { coefficients: Some((coefficients, range)), ..Default::default() }
}

#[test]
fn what_is_supported_is_said_at_once() {
    let mut server = Server::new();
    let client = server.connect();
    let pairs = [(1, 1), (2, 2), (6, 1)].map(|(coefficients, range)| Said::Coefficients(coefficients, range));
    let said = [&[Said::AlphaMode(0)], &pairs[..], &[Said::Done]].concat();
    assert_eq!(client.log.said, said);
}

#[test]
fn what_is_set_counts_from_the_next_commit_on() {
    let mut server = Server::new();
    let mut client = server.connect();
    let (surface, buffer) = (client.surface(), client.buffer(Format::Nv12));
    let object = client.object(&surface);
    surface.attach(Some(&buffer), 0, 0);
    surface.commit();
    // The last of several counts.
    object.set_coefficients_and_range(Coefficients::Bt2020, Range::Full);
    object.set_coefficients_and_range(Coefficients::Bt709, Range::Limited);
    surface.commit();
    // It stays, also without another buffer.
    surface.commit();
    object.set_alpha_mode(AlphaMode::PremultipliedElectrical);
    object.set_chroma_location(ChromaLocation::Type5);
    surface.commit();
    // And goes with the object, with the next commit.
    object.destroy();
    surface.commit();
    let again = client.object(&surface);
    surface.commit();
    again.set_coefficients_and_range(Coefficients::Bt2020, Range::Full);
    surface.commit();
    client.roundtrip(&mut server).unwrap();
    let hd = pair(rules::Coefficients::Bt709, rules::Range::Limited);
    let more = Representation {
        alpha_mode: Some(rules::AlphaMode::PremultipliedElectrical),
        chroma_location: Some(rules::ChromaLocation::Type5),
        ..hd
    };
    let none = Representation::default();
    let uhd = pair(rules::Coefficients::Bt2020, rules::Range::Full);
    assert_eq!(server.state.commits, [none, hd, hd, more, none, none, uhd].map(Ok));
}

#[test]
fn surfaces_do_not_share_what_is_set() {
    let mut server = Server::new();
    let mut client = server.connect();
    let (one, other) = (client.surface(), client.surface());
    let objects = [client.object(&one), client.object(&other)];
    objects[0].set_coefficients_and_range(Coefficients::Bt709, Range::Limited);
    other.commit();
    one.commit();
    client.roundtrip(&mut server).unwrap();
    let hd = pair(rules::Coefficients::Bt709, rules::Range::Limited);
    assert_eq!(server.state.commits, [Ok(Representation::default()), Ok(hd)]);
    assert_eq!(server.state.color.surface_objects(), 2);
}

#[test]
fn a_surface_has_one_object_at_a_time() {
    refused(ManagerError::SurfaceExists as u32, |client| {
        let surface = client.surface();
        client.object(&surface);
        client.object(&surface);
        ("wp_color_representation_manager_v1", client.color.id().protocol_id())
    });
}

#[test]
fn a_mode_that_was_not_offered_is_an_error() {
    for mode in [AlphaMode::PremultipliedOptical, AlphaMode::Straight] {
        object_refused(Error::AlphaMode, |_, _, object| object.set_alpha_mode(mode));
    }
}

#[test]
fn a_combination_that_was_not_offered_is_an_error() {
    for (coefficients, range) in [
        (Coefficients::Identity, Range::Limited),
        (Coefficients::Bt709, Range::Full),
        (Coefficients::Bt601, Range::Limited),
        (Coefficients::Ictcp, Range::Full),
    ] {
        object_refused(Error::Coefficients, |_, _, object| {
            object.set_coefficients_and_range(coefficients, range);
        });
    }
}

#[test]
fn a_matrix_has_to_go_with_the_format() {
    let (rgb, ycbcr) = (Model::Rgb, |is_420| Model::Ycbcr { is_420 });
    for (format, model, coefficients, range) in [
        (Format::Xrgb8888, rgb, Coefficients::Bt709, Range::Limited),
        (Format::Nv12, ycbcr(true), Coefficients::Identity, Range::Full),
        (Format::Yuv444, ycbcr(false), Coefficients::Identity, Range::Full),
    ] {
        // Be the pixels there first or the matrix, in one commit or two.
        for (together, pixels_first) in [(true, true), (false, true), (false, false)] {
            let server = object_refused(Error::PixelFormat, |client, surface, object| {
                let pixels = || surface.attach(Some(&client.buffer(format)), 0, 0);
                let matrix = || object.set_coefficients_and_range(coefficients, range);
                let steps: [&dyn Fn(); 2] =
                    if pixels_first { [&pixels, &matrix] } else { [&matrix, &pixels] };
                for step in steps {
                    step();
                    if !together {
                        surface.commit();
                    }
                }
                surface.commit();
            });
            let faults: Vec<_> = server.state.commits.iter().filter_map(|c| c.as_ref().err()).collect();
            let coefficients = match coefficients {
                Coefficients::Identity => rules::Coefficients::Identity,
                _ => rules::Coefficients::Bt709,
            };
            assert_eq!(faults[0], &CommitFault::Coefficients { coefficients, model });
        }
    }
}

#[test]
fn a_location_has_to_go_with_the_format() {
    for (format, model) in [(Format::Argb8888, Model::Rgb), (Format::Yuv444, Model::Ycbcr { is_420: false })]
    {
        let server = object_refused(Error::PixelFormat, |client, surface, object| {
            surface.attach(Some(&client.buffer(format)), 0, 0);
            object.set_chroma_location(ChromaLocation::Type0);
            surface.commit();
        });
        assert_eq!(server.state.commits, [Err(CommitFault::ChromaLocation { model })]);
    }
}

/// What does not go together is no fault before it is committed with pixels.
#[test]
fn nothing_is_compared_with_no_pixels() {
    let mut server = Server::new();
    let mut client = server.connect();
    let (surface, buffer) = (client.surface(), client.buffer(Format::Nv12));
    let object = client.object(&surface);
    object.set_coefficients_and_range(Coefficients::Identity, Range::Full);
    surface.commit();
    object.set_coefficients_and_range(Coefficients::Bt709, Range::Limited);
    surface.attach(Some(&buffer), 0, 0);
    surface.commit();
    surface.attach(None, 0, 0);
    object.set_coefficients_and_range(Coefficients::Identity, Range::Full);
    surface.commit();
    client.roundtrip(&mut server).unwrap();
    let identity = pair(rules::Coefficients::Identity, rules::Range::Full);
    let hd = pair(rules::Coefficients::Bt709, rules::Range::Limited);
    assert_eq!(server.state.commits, [Ok(identity), Ok(hd), Ok(identity)]);
}

#[test]
fn nothing_is_set_on_a_surface_that_is_gone() {
    let requests: [fn(&WpColorRepresentationSurfaceV1); 3] = [
        |object| object.set_alpha_mode(AlphaMode::PremultipliedElectrical),
        |object| object.set_coefficients_and_range(Coefficients::Bt709, Range::Limited),
        |object| object.set_chroma_location(ChromaLocation::Type0),
    ];
    for request in requests {
        object_refused(Error::Inert, |_, surface, object| {
            surface.destroy();
            request(object);
        });
    }
}

#[test]
fn an_object_can_be_destroyed_after_its_surface() {
    let mut server = Server::new();
    let mut client = server.connect();
    let surface = client.surface();
    let object = client.object(&surface);
    surface.destroy();
    object.destroy();
    client.assert_alive(&mut server);
    assert_eq!(server.state.color.surface_objects(), 0);
}

/// The client library has no name for such a value: the request is sent as a message.
#[test]
fn a_location_that_there_is_not_is_an_error() {
    use wayland_client::backend::protocol::{Argument, Message};
    for location in [0, 7, u32::MAX] {
        object_refused(Error::ChromaLocation, |_, _, object| {
            let backend = object.backend().upgrade().unwrap();
            // set_chroma_location is the request number 3 of the XML.
            let args = [Argument::Uint(location)].into_iter().collect();
            backend.send_request(Message { sender_id: object.id(), opcode: 3, args }, None, None).unwrap();
        });
    }
}

/// Each of the six that there are goes.
#[test]
fn every_location_can_be_set() {
    let mut server = Server::new();
    let mut client = server.connect();
    let surface = client.surface();
    let object = client.object(&surface);
    for location in (1..7).map(|code| ChromaLocation::try_from(code).unwrap()) {
        object.set_chroma_location(location);
        surface.commit();
    }
    client.roundtrip(&mut server).unwrap();
    let codes = server.state.commits.iter().map(|c| c.as_ref().unwrap().chroma_location.unwrap() as u32);
    assert!(codes.eq(1..7));
}

/// The objects of surfaces outlive the factory.
#[test]
fn the_factory_can_go_first() {
    let mut server = Server::new();
    let mut client = server.connect();
    let surface = client.surface();
    let object = client.object(&surface);
    client.color.destroy();
    object.set_coefficients_and_range(Coefficients::Bt2020, Range::Full);
    surface.commit();
    client.roundtrip(&mut server).unwrap();
    assert_eq!(server.state.commits, [Ok(pair(rules::Coefficients::Bt2020, rules::Range::Full))]);
}
