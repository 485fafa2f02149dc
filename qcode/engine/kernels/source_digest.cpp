// Which sources this library was compiled from; build.py computes and defines it.

extern "C" const char* qcode_source_digest() { return QCODE_SOURCE_DIGEST; }
