#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "base/error.h"

namespace hels {
namespace {

[[noreturn]] void refuse(const std::string& path, int error) {
  throw Error(ErrorCode::kModelInvalid, path + ": " + std::generic_category().message(error));
}

/// Closes the descriptor; a mapping outlives it.
class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() { ::close(value_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

 private:
  int value_;
};

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  // O_NONBLOCK: a pipe in a model's place is refused below instead of waiting for a writer.
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) refuse(path, errno);
  const Descriptor closer(file);
  struct stat status = {};
  if (::fstat(file, &status) != 0) refuse(path, errno);
  require(S_ISREG(status.st_mode), ErrorCode::kModelInvalid, path + ": not a regular file");
  sizeBytes_ = static_cast<size_t>(status.st_size);
  if (sizeBytes_ == 0) return;
  void* mapping = ::mmap(nullptr, sizeBytes_, PROT_READ, MAP_PRIVATE, file, 0);
  if (mapping == MAP_FAILED) refuse(path, errno);
  data_ = static_cast<const std::byte*>(mapping);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), sizeBytes_);
}

}  // namespace hels
