// Threads that share the tasks of one kernel: those of OpenMP, if the caller's library uses it, or
// threads of kbn's own. TensorFlow's C API does not offer TensorFlow's threads.
#pragma once

#include <dlfcn.h>
#include <unistd.h>
#if defined(__linux__)
#include <link.h>
#endif

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace kbn {

class Pool {
 public:
  // The pool of the process. It is never deleted, because its threads outlive static destructors.
  static Pool& shared() {
    static Pool* pool = new Pool;
    return *pool;
  }

  // Sets the number of threads that take part, including the caller's.
  void set_threads(int threads) { threads_ = threads < 1 ? 1 : threads; }

  // Uses the threads of the OpenMP library that the process has loaded, and returns whether there
  // is one. Between two loops, OpenMP's threads wait on their cores, so kbn's own would not get any.
  bool use_openmp() {
    if (openmp_ == nullptr) openmp_ = find_openmp();
    return openmp_ != nullptr;
  }

  // Calls function(task) for every task in [0, tasks), in any order, and returns when all are done.
  template <typename Function>
  void run(int64_t tasks, Function&& function) {
    Job job{[](void* f, int64_t task) { (*static_cast<Function*>(f))(task); }, &function, tasks};
    // A fork has none of the threads. If there is one thread, or another kernel uses kbn's, run all
    // tasks here. This is slower, but the results are the same.
    const bool alone = tasks < 2 || threads_ < 2 || getpid() != process_;
    if (!alone && openmp_ != nullptr) {
      openmp_([](void* shared) { static_cast<Job*>(shared)->work(); }, &job, threads_, 0);
      return;
    }
    std::unique_lock<std::mutex> only(in_use_, std::try_to_lock);
    if (alone || !only.owns_lock()) {
      job.work();
      return;
    }
    start(&job);
    job.work();
    finish(&job);
  }

 private:
  // GOMP_parallel of GNU's library; those of Intel and LLVM have it too.
  using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

  static Parallel find_openmp();

  struct Job {
    void (*call)(void*, int64_t);
    void* function;
    int64_t tasks;
    std::atomic<int64_t> next{0};

    Job(void (*call)(void*, int64_t), void* function, int64_t tasks)
        : call(call), function(function), tasks(tasks) {}

    void work() {
      for (int64_t task; (task = next.fetch_add(1)) < tasks;) call(function, task);
    }
  };

  void start(Job* job) {
    try {
      while (static_cast<int>(workers_.size()) < threads_ - 1) {
        workers_.emplace_back([this] { serve(); });
      }
    } catch (const std::system_error&) {
      threads_ = static_cast<int>(workers_.size()) + 1;  // the system has no more threads
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = job;
      generation_.fetch_add(1);
    }
    wake_.notify_all();
  }

  // After this, no worker may use the job, because it is on the caller's stack.
  void finish(Job*) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = nullptr;
    }
    while (busy_.load(std::memory_order_acquire) != 0) pause();
  }

  void serve() {
    uint64_t seen = 0;
    for (;;) {
      // The next loop of a kernel starts within microseconds, so wait a little before sleeping.
      for (int i = 0; i < kSpins && generation_.load() == seen; ++i) pause();
      Job* job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load() != seen; });
        seen = generation_.load();
        job = job_;
        if (job != nullptr) busy_.fetch_add(1);
      }
      if (job == nullptr) continue;
      job->work();
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
  }

  static constexpr int kSpins = 1000;  // about 20 microseconds

  const pid_t process_ = getpid();
  std::atomic<int> threads_{1};
  Parallel openmp_ = nullptr;
  std::vector<std::thread> workers_;
  std::mutex in_use_, mutex_;
  std::condition_variable wake_;
  Job* job_ = nullptr;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> busy_{0};
};

#if defined(__linux__)
inline Pool::Parallel Pool::find_openmp() {
  Parallel found = nullptr;
  // The library has another name in every distribution, and its symbols may be hidden.
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* result) {
        const char* path = info->dlpi_name;
        const char* slash = std::strrchr(path, '/');
        const char* name = slash == nullptr ? path : slash + 1;
        if (std::strncmp(name, "libgomp", 7) != 0 && std::strncmp(name, "libiomp", 7) != 0 &&
            std::strncmp(name, "libomp", 6) != 0) {
          return 0;
        }
        void* library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
        void* symbol = library == nullptr ? nullptr : dlsym(library, "GOMP_parallel");
        *static_cast<Parallel*>(result) = reinterpret_cast<Parallel>(symbol);
        return symbol != nullptr ? 1 : 0;
      },
      &found);
  return found;
}
#else
inline Pool::Parallel Pool::find_openmp() { return nullptr; }
#endif

}  // namespace kbn
