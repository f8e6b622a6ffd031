//! `farrow openapi`: the description of the API, made from the code. It becomes openapi/openapi.json.

use crate::failure::Failure;
use crate::output::print_text;

/// Prints the OpenAPI document.
pub fn run() -> Result<(), Failure> {
    print_text(&server::openapi_json())
}
