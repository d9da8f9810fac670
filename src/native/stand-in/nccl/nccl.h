// A stand-in for NCCL's header, for a libtorch that was fetched without NCCL: as much of it as c10d's headers name.
// The version is that of the NCCL which torch 2.11.0 is built with, as c10d's headers switch members on by it. What
// libtorch was built with is asked of it where NCCL is loaded (nccl.cpp), and tests/training/devices.rs compares the
// layouts.
#pragma once
#include <climits>
#include <cstddef>

#define NCCL_MAJOR 2
#define NCCL_MINOR 28
#define NCCL_PATCH 9
#define NCCL_VERSION(major, minor, patch) \
  ((major) * ((major) <= 2 && (minor) <= 8 ? 1000 : 10000) + (minor) * 100 + (patch))
#define NCCL_VERSION_CODE 22809
#define NCCL_SPLIT_NOCOLOR -1
#define NCCL_CONFIG_UNDEF_INT INT_MIN

using ncclComm_t = struct ncclComm *;

struct ncclUniqueId {
  char internal[128];
};

enum ncclResult_t { ncclSuccess = 0, ncclRemoteError = 6, ncclInProgress = 7, ncclNumResults = 8 };

enum ncclRedOp_t { ncclSum = 0, ncclMaxRedOp = 0x7fffffff };

enum ncclDataType_t {
  ncclInt8 = 0,
  ncclUint8 = 1,
  ncclInt32 = 2,
  ncclInt64 = 4,
  ncclHalf = 6,
  ncclFloat = 7,
  ncclDouble = 8,
  ncclBfloat16 = 9,
  ncclFloat8e4m3 = 10,
  ncclFloat8e5m2 = 11
};

// A communicator's settings. All but the first three have a value that says "not set".
struct ncclConfig_t {
  size_t size = sizeof(ncclConfig_t);
  unsigned magic = 0xcafebeef, version = NCCL_VERSION_CODE;
  int blocking = NCCL_CONFIG_UNDEF_INT, cgaClusterSize = NCCL_CONFIG_UNDEF_INT;
  int minCTAs = NCCL_CONFIG_UNDEF_INT, maxCTAs = NCCL_CONFIG_UNDEF_INT;
  const char *netName = nullptr;
  int splitShare = NCCL_CONFIG_UNDEF_INT, trafficClass = NCCL_CONFIG_UNDEF_INT;
  const char *commName = nullptr;
  int collnetEnable = NCCL_CONFIG_UNDEF_INT, CTAPolicy = NCCL_CONFIG_UNDEF_INT;
  int shrinkShare = NCCL_CONFIG_UNDEF_INT, nvlsCTAs = NCCL_CONFIG_UNDEF_INT;
  int nChannelsPerNetPeer = NCCL_CONFIG_UNDEF_INT, nvlinkCentricSched = NCCL_CONFIG_UNDEF_INT;
};
#define NCCL_CONFIG_INITIALIZER {}

extern "C" {
ncclResult_t ncclRedOpDestroy(ncclRedOp_t op, ncclComm_t comm);
}
