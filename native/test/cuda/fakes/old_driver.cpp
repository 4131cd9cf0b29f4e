// A driver from before there were partitions.
extern "C" __attribute__((visibility("default"))) int cuDriverGetVersion(int* version) {
  *version = 12020;
  return 0;
}
