//! Many clients that show buffer after buffer, each replaced before it is shown again, beside one that draws every frame.
//!
//! The same crowd as in `kernel_load`, without a kernel between it and the compositor whose every call is dear: here one sees
//! what the compositor itself costs a neighbour.

use std::time::{Duration, Instant};

use primeway_tests::buffer::Allocator;
use primeway_tests::client::crowd::{Crowd, Size, Tally};

use crate::headless_support::Server;
use crate::headless_support::neighbour::Neighbour;

use super::fuzz::is_long;
use super::{OUTPUT, alone, assert_files_return, files};

/// Between two commits of each client.
const PACE: Duration = Duration::from_millis(250);

#[test]
fn a_crowd_costs_a_neighbour_no_frames() {
    let _alone = alone();
    let (size, time) = if is_long() {
        (Size { clients: 200, buffers: 8 }, Duration::from_secs(60))
    } else {
        (Size { clients: 30, buffers: 8 }, Duration::from_secs(1))
    };
    let server = Server::start(OUTPUT).unwrap();
    // What is kept from the first clients on.
    drop(Neighbour::new(&server, OUTPUT));
    server.settle().unwrap();
    let before = files(&server);

    let mut crowd = Crowd::gather(|| server.connect_raw(), Allocator::Memfd, size).unwrap();
    crowd.settle().unwrap();
    let mut neighbour = Neighbour::new(&server, OUTPUT);
    let undisturbed = frames(&mut neighbour, time);
    let (tally, disturbed) = std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let before = crowd.tally;
            crowd.work(time, PACE).unwrap();
            crowd.settle().unwrap();
            Tally { commits: crowd.tally.commits - before.commits, ..crowd.tally }
        });
        let disturbed = frames(&mut neighbour, time);
        (busy.join().unwrap(), disturbed)
    });
    println!(
        "{} clients, {:.0} s: {} commits; the neighbour {:.2} frames/s alone, {:.2} beside; late frames {} alone, {} beside",
        size.clients,
        time.as_secs_f64(),
        tally.commits,
        undisturbed.rate(),
        disturbed.rate(),
        undisturbed.late,
        disturbed.late,
    );
    drop((crowd, neighbour));
    assert_files_return(&server, before);
    assert!(tally.commits >= size.clients as u64 * 3, "the crowd did little: {tally:?}");
    // The machine has other things to do as well, which in a short run may be all there is to see.
    let fair = if is_long() { disturbed.rate() > undisturbed.rate() / 2.0 } else { disturbed.frames > 0 };
    assert!(fair, "{disturbed:?}, {undisturbed:?} before");
}

/// What a neighbour drew.
#[derive(Debug)]
struct Drawn {
    frames: u32,
    /// Frames that came more than half a refresh after their vertical blank.
    late: u32,
    time: Duration,
}

impl Drawn {
    fn rate(&self) -> f64 {
        f64::from(self.frames) / self.time.as_secs_f64()
    }
}

fn frames(neighbour: &mut Neighbour, time: Duration) -> Drawn {
    const LATE: Duration = Duration::from_millis(25);
    let (began, mut drawn) = (Instant::now(), Drawn { frames: 0, late: 0, time });
    while began.elapsed() < time {
        let asked = Instant::now();
        neighbour.frame(drawn.frames);
        drawn.late += u32::from(asked.elapsed() > LATE);
        drawn.frames += 1;
    }
    drawn.time = began.elapsed();
    drawn
}
