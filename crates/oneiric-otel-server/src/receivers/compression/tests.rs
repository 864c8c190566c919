//! Each coding: whole, cut short, corrupt, exactly at the limit, beyond it.

use std::io::Write as _;
use std::time::Duration;

use super::super::admission::Admission;
use super::*;

const CODINGS: [Compression; 3] = [Compression::Gzip, Compression::Deflate, Compression::Zstd];

fn compress(data: &[u8], compression: Compression) -> Vec<u8> {
    let level = flate2::Compression::fast();
    let written = match compression {
        Compression::Identity => Ok(data.to_vec()),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(data).and_then(|()| encoder.finish())
        }
        Compression::Deflate => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(data).and_then(|()| encoder.finish())
        }
        Compression::Zstd => zstd::encode_all(data, 1),
    };
    written.expect("writing to memory does not fail")
}

fn inflate(compressed: Vec<u8>, compression: Compression, max: usize, budget: usize) -> Result<Bytes, Failure> {
    let reservation = Admission::new(budget, Duration::ZERO).reserve();
    let mut inflater = Inflater::new(compressed.into(), compression, max, reservation)?;
    while inflater.advance(inflater.output.len() + 10_000)? == Progress::More {}
    Ok(inflater.into_parts().0)
}

#[test]
fn what_was_compressed_comes_back_even_when_stopped_at_every_step() {
    let data: Vec<u8> = (0..1_000_000_u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
    for coding in CODINGS {
        let back = inflate(compress(&data, coding), coding, 64 << 20, 64 << 20).expect("valid");
        assert!(back == data, "{coding:?}");
    }
}

#[test]
fn exactly_the_limit_passes_and_one_byte_more_does_not() {
    for coding in CODINGS {
        let at_limit = inflate(compress(&vec![7; 100_000], coding), coding, 100_000, 1 << 20).expect("at the limit");
        assert_eq!(at_limit.len(), 100_000, "{coding:?}");
        let beyond = inflate(compress(&vec![7; 100_001], coding), coding, 100_000, 1 << 20);
        assert!(matches!(beyond, Err(Failure::TooLarge { max_bytes: 100_000, decompressed: true })), "{coding:?}");
    }
}

#[test]
fn a_bomb_costs_no_more_than_the_limit() {
    for coding in CODINGS {
        let bomb = compress(&vec![0; 32 << 20], coding);
        let reservation = Admission::new(64 << 20, Duration::ZERO).reserve();
        let mut inflater = Inflater::new(bomb.into(), coding, 1 << 20, reservation).expect("the head is valid");
        assert!(matches!(inflater.advance(usize::MAX), Err(Failure::TooLarge { .. })), "{coding:?}");
        assert!(inflater.output.capacity() <= (1 << 20) + 1, "{coding:?}: {}", inflater.output.capacity());
    }
}

#[test]
fn the_budget_is_asked_before_memory_is_taken() {
    for coding in CODINGS {
        let large = compress(&vec![0; 32 << 20], coding);
        let refused = inflate(large, coding, 64 << 20, 4 << 20);
        assert!(matches!(refused, Err(Failure::Unavailable { .. })), "{coding:?}");
    }
}

#[test]
fn a_cut_or_corrupt_body_is_malformed() {
    for coding in CODINGS {
        let whole = compress(&vec![42; 10_000], coding);
        let cut = whole[..whole.len() - 1].to_vec();
        let text = inflate(cut, coding, 1 << 20, 1 << 20).expect_err("cut short").to_string();
        assert!(text.contains(coding.name()), "{text}");
        let garbage = inflate(b"this is no compressed body".to_vec(), coding, 1 << 20, 1 << 20);
        assert!(matches!(garbage, Err(Failure::Malformed { .. })), "{coding:?}");
    }
}

#[test]
fn gzip_members_and_zstd_frames_may_follow_each_other() {
    for coding in [Compression::Gzip, Compression::Zstd] {
        let mut two = compress(b"one ", coding);
        two.extend(compress(b"two", coding));
        assert_eq!(inflate(two, coding, 100, 1 << 20).expect("valid"), "one two", "{coding:?}");
    }
}

#[test]
fn a_zstd_frame_that_asks_for_a_huge_window_is_malformed() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
    encoder.window_log(27).expect("a parameter of zstd");
    encoder.write_all(&[0; 1000]).expect("writing to memory does not fail");
    let frame = encoder.finish().expect("writing to memory does not fail");
    assert!(matches!(inflate(frame, Compression::Zstd, 1 << 20, 1 << 20), Err(Failure::Malformed { .. })));
}

#[test]
fn names_of_codings_are_case_insensitive() {
    assert_eq!(Compression::from_name(" GZip"), Some(Compression::Gzip));
    assert_eq!(Compression::from_name("x-gzip"), Some(Compression::Gzip));
    assert_eq!(Compression::from_name(""), Some(Compression::Identity));
    assert_eq!(Compression::from_name("identity"), Some(Compression::Identity));
    assert_eq!(Compression::from_name("br"), None);
    assert_eq!(Compression::from_name("gzip, gzip"), None);
}
