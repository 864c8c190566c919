//! What a body holds of the budget while it arrives, and how slow it may be.

use std::convert::Infallible;

use futures::StreamExt as _;
use futures::channel::mpsc;
use http_body_util::StreamBody;
use hyper::body::Frame;

use super::*;

const BUDGET: usize = 8 << 20;
const MAX: usize = 1 << 20;

fn limits(pace: Pace) -> BodyLimits {
    BodyLimits {
        max_bytes: MAX,
        timeout: Duration::from_mins(1),
        pace,
        admission: Admission::new(BUDGET, Duration::ZERO),
        inflating: Semaphore::new(1),
    }
}

fn patient() -> BodyLimits {
    limits(Pace { bytes: 64 << 10, window: Duration::from_mins(1) })
}

type Sender = mpsc::UnboundedSender<Bytes>;

fn body() -> (Sender, impl Body<Data = Bytes, Error = Infallible> + Unpin) {
    let (sender, receiver) = mpsc::unbounded::<Bytes>();
    (sender, StreamBody::new(receiver.map(|data| Ok(Frame::data(data)))))
}

fn send(sender: &Sender, bytes: usize) {
    sender.unbounded_send(vec![7; bytes].into()).expect("the body is being read");
}

#[tokio::test]
async fn a_body_holds_what_has_arrived_and_not_what_was_announced() {
    for (compression, factor) in [(Compression::Identity, 2), (Compression::Gzip, 18)] {
        let limits = patient();
        let (sender, mut incoming) = body();
        let mut reader = BodyReader::new(&mut incoming, &limits, compression, 0);
        reader.expect(MAX as u64).expect("not too large");
        assert_eq!(reader.reservation.bytes(), 0);
        let mut sent = 0;
        for piece in [1, 5_000, 60_000, 1, 200_000] {
            send(&sender, piece);
            sent += piece;
            assert_eq!(reader.fill(sent).await.expect("there is room").len(), sent);
            let held = reader.reservation.bytes();
            assert!(
                (sent..=factor * sent.max(FIRST_ROOM) + 1024).contains(&held),
                "{held} for {sent}, {compression:?}"
            );
        }
        send(&sender, MAX - sent);
        drop(sender);
        let (whole, reservation) = reader.finish().await.expect("there is room");
        assert!(whole.iter().all(|byte| *byte == 7));
        assert_eq!(whole.len(), MAX);
        // As much as was announced, no more, and for what is compressed as much again to decompress it.
        let expected = if compression == Compression::Identity { MAX } else { 2 * MAX + 1024 };
        assert_eq!(reservation.bytes(), expected, "{compression:?}");
    }
}

#[tokio::test]
async fn a_body_may_say_less_than_it_brings() {
    let limits = patient();
    let (sender, mut incoming) = body();
    let mut reader = BodyReader::new(&mut incoming, &limits, Compression::Identity, 0);
    reader.expect(10).expect("not too large");
    send(&sender, 100_000);
    drop(sender);
    let (whole, reservation) = reader.finish().await.expect("there is room");
    assert!(whole.len() == 100_000 && reservation.bytes() >= 100_000);

    let (sender, mut incoming) = body();
    let mut reader = BodyReader::new(&mut incoming, &limits, Compression::Identity, 5);
    assert_eq!(reader.expect(MAX as u64 + 6), Err(Failure::TooLarge { max_bytes: MAX, decompressed: false }));
    send(&sender, MAX + 6);
    assert!(matches!(reader.finish().await, Err(Failure::TooLarge { .. })));
}

#[tokio::test]
async fn a_body_that_keeps_no_pace_is_given_up() {
    let window = Duration::from_millis(20);
    let limits = limits(Pace { bytes: 1000, window });
    for pieces in [&[][..], &[999], &[1000], &[600, 600, 600, 100]] {
        let (sender, mut incoming) = body();
        let reader = BodyReader::new(&mut incoming, &limits, Compression::Identity, 0);
        for bytes in pieces {
            send(&sender, *bytes);
        }
        let failure = reader.finish().await.expect_err("the rest does not come");
        let received = pieces.iter().sum();
        assert_eq!(failure, Failure::BodyTooSlow { least: 1000, within: window, received });
    }
    // Each share that arrives in time begins a new window.
    let (sender, mut incoming) = body();
    let limits = self::limits(Pace { bytes: 1000, window: Duration::from_secs(10) });
    let mut reader = BodyReader::new(&mut incoming, &limits, Compression::Identity, 0);
    send(&sender, 999);
    reader.fill(999).await.expect("in time");
    assert_eq!(reader.due_bytes, 1000);
    let due = reader.due;
    send(&sender, 1);
    reader.fill(1000).await.expect("in time");
    assert!(reader.due > due && reader.due_bytes == 2000);
}
