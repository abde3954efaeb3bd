//! Which content type a name gets.
//!
//! Two tables, as the API's own clients have them: one for files of sites, functions and asset slices,
//! another without charsets for assets put one by one.

const UNKNOWN: &str = "application/octet-stream";

/// What follows the last dot of the whole path, lower case.
fn extension(path: &str) -> Option<String> {
    path.rsplit_once('.').map(|(_, extension)| extension.to_lowercase())
}

/// For files of a site or function, and for assets of a slice that name no type.
pub fn of_file(path: &str) -> &'static str {
    match extension(path).as_deref() {
        Some("html" | "htm") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js" | "mjs" | "cjs") => "text/javascript; charset=utf-8",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("gif") => "image/gif",
        Some("webp") => "image/webp",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("ico") => "image/x-icon",
        Some("woff") => "font/woff",
        Some("woff2") => "font/woff2",
        Some("ttf") => "font/ttf",
        Some("otf") => "font/otf",
        Some("txt") => "text/plain; charset=utf-8",
        Some("md") => "text/markdown; charset=utf-8",
        Some("xml") => "application/xml",
        Some("pdf") => "application/pdf",
        Some("wasm") => "application/wasm",
        Some("sql") => "application/sql",
        _ => UNKNOWN,
    }
}

/// For an asset that is put by itself.
pub fn of_asset(key: &str) -> &'static str {
    match extension(key).as_deref() {
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("gif") => "image/gif",
        Some("svg") => "image/svg+xml",
        Some("webp") => "image/webp",
        Some("html") => "text/html",
        Some("css") => "text/css",
        Some("js") => "text/javascript",
        Some("json") => "application/json",
        Some("txt") => "text/plain",
        Some("md") => "text/markdown",
        Some("pdf") => "application/pdf",
        Some("zip") => "application/zip",
        Some("tgz" | "gz") => "application/gzip",
        _ => UNKNOWN,
    }
}

/// Bytes that a text would not survive: fonts, images, archives, programs.
pub fn is_binary(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.split_once('/') {
        Some(("image", "svg+xml")) => false,
        Some(("image" | "font" | "audio" | "video", _)) => true,
        Some(("application", "pdf" | "wasm" | "zip" | "gzip")) => true,
        _ => false,
    }
}
