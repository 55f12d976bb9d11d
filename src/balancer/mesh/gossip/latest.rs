//! A queue in which only the latest of what is put under one key is kept.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// Values in the order in which they were put last. Usage at most one for each key, so it does not
/// outgrow what there is to tell, however slowly it is emptied.
#[derive(Debug)]
pub struct Latest<K, V> {
    order: BTreeMap<u64, (K, V)>,
    places: HashMap<K, u64>,
    next: u64,
}

impl<K, V> Default for Latest<K, V> {
    fn default() -> Self {
        Self { order: BTreeMap::new(), places: HashMap::new(), next: 0 }
    }
}

impl<K: Clone + Eq + Hash, V> Latest<K, V> {
    /// Puts a value at the end, in place of one under the same key wherever that is. Gives that one.
    pub fn put(&mut self, key: K, value: V) -> Option<V> {
        let place = self.next;
        self.next += 1;
        let before = self.places.insert(key.clone(), place).and_then(|before| self.order.remove(&before));
        self.order.insert(place, (key, value));
        before.map(|(_, value)| value)
    }

    /// Takes the value under a key.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.places.remove(key)?;
        self.order.remove(&place).map(|(_, value)| value)
    }

    /// Takes the first value.
    pub fn take(&mut self) -> Option<(K, V)> {
        let (_, (key, value)) = self.order.pop_first()?;
        self.places.remove(&key);
        Some((key, value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_again_moves_to_the_end_and_is_there_once() {
        let mut latest = Latest::default();
        for (key, value) in [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("b", 5)] {
            latest.put(key, value);
        }
        assert_eq!(latest.len(), 3);
        let all: Vec<_> = std::iter::from_fn(|| latest.take()).collect();
        assert_eq!(all, [("a", 3), ("c", 4), ("b", 5)]);
        assert_eq!(latest.put("a", 6), None);
        assert_eq!(latest.put("a", 7), Some(6));
        assert_eq!(latest.remove(&"a"), Some(7));
        assert_eq!((latest.remove(&"a"), latest.len()), (None, 0));
    }
}
