//! RTMP 1.0 (Adobe, 2012) as far as a relay needs it.
