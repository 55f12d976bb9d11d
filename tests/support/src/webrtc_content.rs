//! What publishers send: frames that carry a number, and whose every byte follows from it.

/// Frames from one key frame to the next.
const KEY_FRAME_INTERVAL: u64 = 15;
/// The frame tag of VP8 and, of a key frame, the start code and the size of the picture (RFC 6386,
/// section 9.1).
const KEY_FRAME_HEADER: [u8; 10] = [0x10, 0x02, 0x00, 0x9D, 0x01, 0x2A, 0x40, 0x01, 0xB4, 0x00];
const INTER_FRAME_HEADER: [u8; 3] = [0x11, 0x02, 0x00];
/// Sizes in bytes: a frame takes several packets, a key frame more.
const KEY_FRAME: usize = 6_000;
const INTER_FRAME: usize = 2_000;
const SOUND: usize = 80;

/// A frame of VP8, as far as anybody looks into it who does not decode it.
pub fn picture(number: u64) -> Vec<u8> {
    if number.is_multiple_of(KEY_FRAME_INTERVAL) {
        filled(&KEY_FRAME_HEADER, number, KEY_FRAME)
    } else {
        filled(&INTER_FRAME_HEADER, number, INTER_FRAME)
    }
}

/// A frame of Opus.
pub fn sound(number: u64) -> Vec<u8> {
    filled(&[], number, SOUND)
}

/// The number of a picture that arrived whole, none if a byte of it is wrong.
pub fn picture_number(frame: &[u8]) -> Option<u64> {
    let header = if frame.first()? & 1 == 0 { KEY_FRAME_HEADER.len() } else { INTER_FRAME_HEADER.len() };
    let number = number_at(frame, header)?;
    (picture(number) == frame).then_some(number)
}

/// The number of a sound that arrived whole, none if a byte of it is wrong.
pub fn sound_number(frame: &[u8]) -> Option<u64> {
    let number = number_at(frame, 0)?;
    (sound(number) == frame).then_some(number)
}

fn number_at(frame: &[u8], start: usize) -> Option<u64> {
    Some(u64::from_be_bytes(frame.get(start..start + 8)?.try_into().ok()?))
}

fn filled(header: &[u8], number: u64, size: usize) -> Vec<u8> {
    let mut frame = [header, &number.to_be_bytes()].concat();
    // A linear congruential generator (Knuth's MMIX) from the number on.
    let mut state = number;
    frame.resize_with(size, || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    frame
}
