// What dynamic_library_test.cpp opens.
extern "C" __attribute__((visibility("default"))) int helsTestValue() { return 42; }
