#!/bin/bash
# Eight ranks on Grid Engine; adapt the environment's name (-pe), the resources and the modules to your site.
# `hpclaunch script sge --mpi 8 --pe ib array_sum.py` writes such a file for you.
#$ -N array
#$ -cwd
#$ -j y
#$ -o array.$JOB_ID.log
#$ -l h_rt=00:15:00
#$ -l h_vmem=1500M
#$ -pe ib 8

module load openmpi
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

mpirun -np $NSLOTS python array_sum.py
