//! How many streams are on each origin: counted from time to time, and kept up in between by what is
//! heard of new placements. Approximate, as the choice of an origin needs it.

use std::collections::HashMap;

use crate::origin::OriginId;

/// Streams by origin.
#[derive(Debug, Default)]
pub(super) struct Loads {
    by_origin: HashMap<OriginId, usize>,
    total: usize,
}

impl Loads {
    pub fn count(&self, origin: &OriginId) -> usize {
        self.by_origin.get(origin).copied().unwrap_or(0)
    }

    /// How many streams are placed in all.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Takes a new count.
    pub fn counted(&mut self, by_origin: HashMap<OriginId, usize>) {
        self.total = by_origin.values().sum();
        self.by_origin = by_origin;
    }

    /// Notes that a stream was placed, or moved from another origin.
    pub fn placed(&mut self, from: Option<&OriginId>, to: &OriginId) {
        self.total += 1;
        *self.by_origin.entry(to.clone()).or_default() += 1;
        if let Some(count) = from.and_then(|from| self.by_origin.get_mut(from))
            && *count > 0
        {
            *count -= 1;
            self.total -= 1;
        }
        self.by_origin.retain(|_, count| *count > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_takes_a_stream_from_one_origin_and_gives_it_to_another() {
        let (a, b) = (OriginId::from("a"), OriginId::from("b"));
        let mut loads = Loads::default();
        loads.placed(None, &a);
        loads.placed(None, &a);
        loads.placed(Some(&a), &b);
        assert_eq!((loads.count(&a), loads.count(&b), loads.total()), (1, 1, 2));
        loads.counted(HashMap::from([(b.clone(), 7)]));
        loads.placed(Some(&a), &b);
        assert_eq!((loads.count(&a), loads.count(&b), loads.total()), (0, 8, 8));
    }
}
