//! The balancer of a node that stands alone.
