//! Any bytes as what nodes post, ask and answer: no panic, and what was read can be written and read
//! again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use srs_proxy::balancer::mesh::wire::{
    decode_node, decode_origin, decode_record, decode_request, decode_response, encode_node, encode_origin,
    encode_record, encode_request, encode_response,
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = decode_record(bytes) {
        assert_eq!(decode_record(&encode_record(&record)), Ok(record));
    }
    if let Ok(facts) = decode_origin(bytes) {
        assert_eq!(decode_origin(&encode_origin(&facts)), Ok(facts));
    }
    if let Ok(info) = decode_node(bytes) {
        assert_eq!(decode_node(&encode_node(&info)), Ok(info));
    }
    if let Ok(request) = decode_request(bytes) {
        assert_eq!(decode_request(&encode_request(&request)), Ok(request));
    }
    if let Ok(response) = decode_response(bytes) {
        assert_eq!(decode_response(&encode_response(&response)), Ok(response));
    }
});
