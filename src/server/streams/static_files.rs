//! Files beside the streams (`PROXY_STATIC_FILES`).
