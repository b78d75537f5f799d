/** Fails on every call. */
export default (): number[] => {
  throw new Error("the judge is out");
};
