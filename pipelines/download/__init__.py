"""Published files fetched from their servers, checked and unpacked."""
