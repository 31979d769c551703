
// ---- all trials stand in the page

const available = async () => true;
begin();
