//! The choice of an origin for a fresh stream. Pure: candidates and randomness in, a choice out.
