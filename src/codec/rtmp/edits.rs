//! Changes to a run of bytes, noted while it is scanned and carried out only if there are any.

use std::ops::Range;

/// Replacements, in the order in which they stand in the bytes. Usually none: then the bytes are
/// forwarded as they came, without a copy.
#[derive(Debug, Default)]
pub struct Edits {
    list: Vec<(Range<usize>, Range<usize>)>,
    inserted: Vec<u8>,
}

impl Edits {
    /// Whether the bytes stay as they are.
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Forgets all edits and keeps the memory.
    pub fn clear(&mut self) {
        self.list.clear();
        self.inserted.clear();
    }

    /// Takes `range` out.
    pub fn remove(&mut self, range: Range<usize>) {
        self.replace(range, |_| {});
    }

    /// Puts what `write` appends at `at`.
    pub fn insert(&mut self, at: usize, write: impl FnOnce(&mut Vec<u8>)) {
        self.replace(at..at, write);
    }

    /// Puts what `write` appends in the place of `range`, which begins where the last edit ended or
    /// later.
    pub fn replace(&mut self, range: Range<usize>, write: impl FnOnce(&mut Vec<u8>)) {
        debug_assert!(self.list.last().is_none_or(|(last, _)| last.end <= range.start));
        let start = self.inserted.len();
        write(&mut self.inserted);
        if !range.is_empty() || self.inserted.len() > start {
            self.list.push((range, start..self.inserted.len()));
        }
    }

    /// Appends `bytes` with the edits carried out.
    pub fn apply(&self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut at = 0;
        for (range, inserted) in &self.list {
            out.extend_from_slice(&bytes[at..range.start]);
            out.extend_from_slice(&self.inserted[inserted.clone()]);
            at = range.end;
        }
        out.extend_from_slice(&bytes[at..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_carried_out_in_place_and_the_rest_stays() {
        let mut edits = Edits::default();
        let mut out = Vec::new();
        edits.insert(0, |o| o.extend(b"<"));
        edits.replace(1..3, |o| o.extend(b"XYZ"));
        edits.remove(3..4);
        edits.insert(6, |o| o.extend(b">"));
        edits.apply(b"abcdef", &mut out);
        assert_eq!(out, b"<aXYZef>");

        edits.clear();
        edits.remove(2..2);
        assert!(edits.is_empty());
    }
}
