// For a build without OpenMP: its pragmas are ignored, and there is one thread.
#pragma once

inline int omp_get_thread_num() { return 0; }
