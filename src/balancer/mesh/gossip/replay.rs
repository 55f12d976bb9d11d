//! Which packets of a run have come already.

/// How many packets a packet may be late by. A node sends some thousands in a second when it tells a
/// newcomer everything.
const WINDOW: u64 = 4096;
const WORDS: usize = WINDOW as usize / 64;

/// Remembers the numbers of the latest packets of one run.
#[derive(Debug)]
pub struct Window {
    highest: u64,
    seen: [u64; WORDS],
}

impl Window {
    /// A window that has seen nothing, and `first` is about to come.
    pub const fn new(first: u64) -> Self {
        Self { highest: first, seen: [0; WORDS] }
    }

    /// Takes note of a packet; false if it has come before, or so late that this cannot be told.
    pub fn admit(&mut self, number: u64) -> bool {
        if number > self.highest {
            let steps = (number - self.highest).min(WINDOW);
            for skipped in number - steps + 1..=number {
                let (word, bit) = place(skipped);
                self.seen[word] &= !bit;
            }
            self.highest = number;
        } else if self.highest - number >= WINDOW {
            return false;
        }
        let (word, bit) = place(number);
        let fresh = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        fresh
    }
}

const fn place(number: u64) -> (usize, u64) {
    let slot = number % WINDOW;
    ((slot / 64) as usize, 1 << (slot % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_packet_is_admitted_once_in_any_order() {
        let mut window = Window::new(5);
        for number in [5, 7, 6, 0, WINDOW, 3] {
            assert!(window.admit(number), "{number}");
            assert!(!window.admit(number), "{number}");
        }
        assert!(!window.admit(7) && window.admit(1), "what is inside the window still counts");
        assert!(window.admit(u64::MAX) && !window.admit(8) && !window.admit(u64::MAX));
    }

    proptest! {
        #[test]
        fn no_number_is_admitted_twice_and_none_inside_the_window_is_lost(
            numbers in prop::collection::vec(0..3 * WINDOW, 1..300)
        ) {
            let mut window = Window::new(numbers[0]);
            let (mut seen, mut highest) = (HashSet::new(), numbers[0]);
            for number in numbers {
                highest = highest.max(number);
                let inside = highest - number < WINDOW;
                prop_assert_eq!(window.admit(number), inside && seen.insert(number));
            }
        }
    }
}
