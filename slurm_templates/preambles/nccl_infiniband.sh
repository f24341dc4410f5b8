# NCCL over InfiniBand. Everything is a default: what the job's environment already sets stays.
export NCCL_IB_DISABLE="${NCCL_IB_DISABLE:-0}"
# a link that is lost for a moment is retried (about 20 s in all) instead of ending the run
export NCCL_IB_TIMEOUT="${NCCL_IB_TIMEOUT:-22}"
export NCCL_IB_RETRY_CNT="${NCCL_IB_RETRY_CNT:-7}"
# the store and NCCL's own bootstrap talk over IP: any interface but loopback and containers'
export NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-^lo,docker,virbr}"
# a failed collective ends the process instead of waiting for ever
export TORCH_NCCL_ASYNC_ERROR_HANDLING="${TORCH_NCCL_ASYNC_ERROR_HANDLING:-1}"
